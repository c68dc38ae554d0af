//! What sites tell about themselves: keys, values, and their encodings.

use uuid::Uuid;

use crate::clock::site_number;
use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::id::ManifestId;
use crate::runs::Runs;

/// A site, by [`site_number`].
pub type SiteNumber = u64;

/// Longest value of an entry of the site family in bytes.
pub(super) const VALUE_LEN_MAX: usize = 4096;
/// Most runs of a partial holding that are told, the longest ones, so that it takes some 300 bytes; chunks in others
/// are not told. Whoever asks the holder itself hears of all.
pub(super) const HOLDING_RUNS_MAX: usize = 64;
/// Most neighbours that a site tells.
pub(super) const LINKS_MAX: usize = 64;
/// Most addresses of a site.
pub(super) const ADDRESSES_MAX: usize = 8;
/// Longest name, zone, software or address in bytes.
pub(super) const TEXT_LEN_MAX: usize = 255;
/// Longest key of an entry kind that this program does not know.
const UNREAD_KEY_LEN_MAX: usize = 32;
/// Numbers from here on may be ignored by programs that do not know them.
pub(super) const IGNORABLE: u8 = 128;

/// What a log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// The site itself.
    Site,
    /// The image records that it wrote to.
    Images,
}

/// One log: what one site tells, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// The log's only writer.
    pub site: SiteNumber,
    /// What it is about.
    pub family: Family,
}

impl LogId {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.site.to_le_bytes());
        out.push(match self.family {
            Family::Site => 1,
            Family::Images => 2,
        });
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let site = reader.u64("site number")?;
        let family = match reader.u8("log family")? {
            1 => Family::Site,
            2 => Family::Images,
            other => {
                return Err(DecodeError::Unknown {
                    what: "log family",
                    value: other.into(),
                });
            }
        };
        Ok(Self { site, family })
    }
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// [`Info`].
    Info,
    /// [`Link`]s.
    Links,
    /// The [`Holding`] of a manifest.
    Holding(ManifestId),
    /// An image record.
    Image(Uuid),
    /// Something that a newer program tells; kept and relayed unread.
    Unread {
        /// Entry kind, from 128 on.
        kind: u8,
        /// Key within the kind.
        id: Box<[u8]>,
    },
}

impl Key {
    /// The log family that such entries belong to.
    pub fn family(&self) -> Family {
        match self {
            Self::Image(_) => Family::Images,
            _ => Family::Site,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Info => out.push(1),
            Self::Links => out.push(2),
            Self::Holding(id) => {
                out.push(3);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Image(id) => {
                out.push(4);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Unread { kind, id } => {
                out.push(*kind);
                put_bytes(out, id);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8("entry kind")? {
            1 => Self::Info,
            2 => Self::Links,
            3 => Self::Holding(ManifestId::from_bytes(reader.array("manifest id")?)),
            4 => Self::Image(Uuid::from_bytes(reader.array("image id")?)),
            kind if kind >= IGNORABLE => Self::Unread {
                kind,
                id: reader.bytes(UNREAD_KEY_LEN_MAX, "entry key")?.into(),
            },
            other => {
                return Err(DecodeError::Unknown {
                    what: "entry kind",
                    value: other.into(),
                });
            }
        })
    }
}

/// Who and where a site is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its name, as in its certificate.
    pub name: String,
    /// Where it is: sites of one zone are near one another.
    pub zone: String,
    /// Name and version of its program.
    pub software: String,
    /// Number of this start of its daemon: later ones are higher.
    pub boot: u64,
    /// Entries of its site log below this version are void.
    pub since: u64,
    /// Where its peer port can be reached, as `host:port`.
    pub addresses: Vec<String>,
}

impl Info {
    /// The encoding. Texts and lists beyond their limits are cut.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for text in [&self.name, &self.zone, &self.software] {
            put_text(&mut out, text);
        }
        out.extend_from_slice(&self.boot.to_le_bytes());
        out.extend_from_slice(&self.since.to_le_bytes());
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESSES_MAX)];
        put_varint(&mut out, addresses.len() as u64);
        for address in addresses {
            put_text(&mut out, address);
        }
        out
    }

    /// Decodes the info of the site with this number.
    pub(super) fn decode(bytes: &[u8], site: SiteNumber) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let info = Self {
            name: reader.string(TEXT_LEN_MAX, "site name")?.to_owned(),
            zone: reader.string(TEXT_LEN_MAX, "zone")?.to_owned(),
            software: reader.string(TEXT_LEN_MAX, "software")?.to_owned(),
            boot: reader.u64("boot")?,
            since: reader.u64("since")?,
            addresses: (0..reader.varint(ADDRESSES_MAX as u64, "address count")?)
                .map(|_| Ok(reader.string(TEXT_LEN_MAX, "address")?.to_owned()))
                .collect::<Result<_, DecodeError>>()?,
        };
        skip_fields(reader)?;
        if site_number(&info.name) != site {
            return Err(DecodeError::Invalid {
                what: "site name",
                rule: "it is the name of the log's site",
            });
        }
        Ok(info)
    }
}

/// A connection of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The neighbour.
    pub site: SiteNumber,
    /// Round trip in microseconds.
    pub rtt_us: HalfOctave,
    /// Bytes per second that were seen to arrive.
    pub goodput: HalfOctave,
}

/// A quantity known to a factor of √2, so that it is told rarely.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HalfOctave(u8);

impl HalfOctave {
    /// Not known.
    pub const UNKNOWN: Self = Self(0);

    /// The half octave of a quantity; 0 counts as unknown.
    pub fn of(quantity: u64) -> Self {
        let Some(octave) = quantity.checked_ilog2() else {
            return Self::UNKNOWN;
        };
        // The upper half begins at √2 times a power of two.
        let upper = u128::from(quantity).pow(2) >= 1 << (2 * octave + 1);
        Self(1 + 2 * octave as u8 + u8::from(upper))
    }

    /// The least quantity in it.
    pub fn value(self) -> Option<u64> {
        let half_octaves = u32::from(self.0.checked_sub(1)?);
        let square = 1u128 << half_octaves;
        // Of 2^63·√2 on it fits because a square below 2^128 has a root below 2^64.
        Some(square.isqrt() as u64)
    }

    /// Whether the two are more than one step apart, or only one is known.
    pub fn differs(self, other: Self) -> bool {
        (self.0 == 0) != (other.0 == 0) || self.0.abs_diff(other.0) > 1
    }
}

pub(super) fn encode_links(links: &[Link]) -> Vec<u8> {
    let links = &links[..links.len().min(LINKS_MAX)];
    let mut out = Vec::new();
    put_varint(&mut out, links.len() as u64);
    for link in links {
        out.extend_from_slice(&link.site.to_le_bytes());
        out.push(link.rtt_us.0);
        out.push(link.goodput.0);
    }
    out
}

pub(super) fn decode_links(bytes: &[u8]) -> Result<Vec<Link>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let half_octave = |number: u8| {
        if number <= 128 {
            return Ok(HalfOctave(number));
        }
        Err(DecodeError::TooLarge {
            what: "half octave",
            value: number.into(),
            max: 128,
        })
    };
    let links = (0..reader.varint(LINKS_MAX as u64, "link count")?)
        .map(|_| {
            Ok(Link {
                site: reader.u64("site number")?,
                rtt_us: half_octave(reader.u8("round trip")?)?,
                goodput: half_octave(reader.u8("goodput")?)?,
            })
        })
        .collect::<Result<_, DecodeError>>()?;
    skip_fields(reader)?;
    Ok(links)
}

/// How much of a manifest's data a site has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// Nothing, any more.
    None,
    /// These chunk indexes. Beyond 64 runs only the longest are told.
    Part(Runs),
    /// All.
    Complete,
}

impl Holding {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::None => vec![0],
            Self::Part(runs) => {
                let mut out = vec![1];
                runs.longest(HOLDING_RUNS_MAX).encode(&mut out);
                out
            }
            Self::Complete => vec![2],
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let holding = match reader.u8("holding")? {
            0 => Self::None,
            1 => Self::Part(Runs::decode(&mut reader)?),
            2 => Self::Complete,
            other => {
                return Err(DecodeError::Unknown {
                    what: "holding",
                    value: other.into(),
                });
            }
        };
        skip_fields(reader)?;
        Ok(holding)
    }
}

/// Whether this is the value of a holding of nothing.
pub(super) fn is_none(key: &Key, value: &[u8]) -> bool {
    matches!(key, Key::Holding(_)) && value.first() == Some(&0)
}

/// Reads fields that newer programs may have put at the end, and refuses those that must be understood.
pub(super) fn skip_fields(mut reader: Reader<'_>) -> Result<(), DecodeError> {
    while reader.remaining() > 0 {
        let tag = reader.u8("field tag")?;
        reader.bytes(VALUE_LEN_MAX, "field")?;
        if tag < IGNORABLE {
            return Err(DecodeError::Unknown {
                what: "field",
                value: tag.into(),
            });
        }
    }
    Ok(())
}

/// Appends a text, cut to [`TEXT_LEN_MAX`].
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let end = text.floor_char_boundary(TEXT_LEN_MAX);
    put_bytes(out, &text.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info() -> Info {
        Info {
            name: "paris".into(),
            zone: "eu".into(),
            software: "vitraild 0.1".into(),
            boot: 7,
            since: 9,
            addresses: vec!["paris.example:9293".into()],
        }
    }

    #[test]
    fn values_round_trip() {
        let bytes = info().encode();
        assert_eq!(Info::decode(&bytes, site_number("paris")), Ok(info()));
        assert!(Info::decode(&bytes, site_number("rome")).is_err());
        for holding in [
            Holding::None,
            Holding::Part(Runs::of([1, 2, 7])),
            Holding::Complete,
        ] {
            assert_eq!(Holding::decode(&holding.encode()), Ok(holding));
        }
        let links = vec![Link {
            site: 3,
            rtt_us: HalfOctave::of(12_000),
            goodput: HalfOctave::UNKNOWN,
        }];
        assert_eq!(decode_links(&encode_links(&links)), Ok(links));
    }

    #[test]
    fn a_ragged_holding_is_cut_and_fits() {
        let all = Runs::of((0..100_000).flat_map(|i| i * 40_000..i * 40_000 + 1 + i / 50_000));
        let Ok(Holding::Part(told)) = Holding::decode(&Holding::Part(all.clone()).encode()) else {
            panic!("a part");
        };
        assert_eq!(
            told.ranges(),
            &all.ranges()[50_000..][..HOLDING_RUNS_MAX],
            "the first of the longest"
        );
        assert!(Holding::Part(all).encode().len() <= VALUE_LEN_MAX);
    }

    #[test]
    fn fields_from_the_future_are_skipped_only_if_they_may_be() {
        let mut bytes = info().encode();
        bytes.extend_from_slice(&[200, 2, 1, 1]);
        assert_eq!(Info::decode(&bytes, site_number("paris")), Ok(info()));
        bytes.extend_from_slice(&[100, 0]);
        assert_eq!(
            Info::decode(&bytes, site_number("paris")),
            Err(DecodeError::Unknown {
                what: "field",
                value: 100
            })
        );
    }

    proptest! {
        #[test]
        fn half_octaves_bracket(quantity in 1u64..1 << 62) {
            let step = HalfOctave::of(quantity);
            let low = step.value().expect("known");
            prop_assert!(low <= quantity);
            prop_assert!(u128::from(quantity).pow(2) < 2 * u128::from(low + 1).pow(2));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            Info::decode(&bytes, 0).ok();
            for link in decode_links(&bytes).unwrap_or_default() {
                link.rtt_us.value();
            }
            Holding::decode(&bytes).ok();
            Key::decode(&mut Reader::new(&bytes)).ok();
        }
    }
}
