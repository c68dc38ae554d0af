//! Cutting a stream of bytes into chunks and holes. Pure: bytes in, pieces out.

use bytes::Bytes;
use fastcdc::v2020::FastCDC;
use vitrail_proto::chunk::CHUNK_LEN_MAX;
use vitrail_proto::manifest::ChunkerParams;

/// Holes start and end at multiples of this many bytes of the image (or at its end): file systems
/// and disk formats allocate in pages, so zeros at other places belong to data.
const PAGE: usize = 4096;
static ZERO_PAGE: [u8; PAGE] = [0; PAGE];

/// The parameters of new images.
///
/// 64 KiB on average: against 16 KiB it costs a third more bytes for an update when chunks are sent one
/// by one, next to nothing when they are encoded against what the receiver has, and it keeps manifests and
/// index at a quarter. `BENCHMARKS.md` in `bench/` has the figures. Holes of one page cost a segment of
/// 3 bytes and end a chunk early; from 16 KiB on they are worth it.
pub const PARAMS: ChunkerParams = ChunkerParams {
    algorithm: 1,
    len_min: 16 * 1024,
    len_avg: 64 * 1024,
    len_max: CHUNK_LEN_MAX,
    hole_min: 16 * 1024,
};

/// A run of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of one chunk.
    Data(Bytes),
    /// Zeros, in bytes. Two holes never follow each other.
    Hole(u64),
}

/// Cuts a stream. Where it cuts depends on the bytes and the parameters alone, not on how the
/// stream is sliced into pushes.
///
/// Memory: one push's bytes and at most a chunk and a hole's minimum besides.
pub struct Chunker {
    params: ChunkerParams,
    /// Data since the last cut.
    data: Vec<u8>,
    /// Zeros since the last data, not yet known to be a hole.
    zeros: u64,
    /// Bytes since the last page boundary that do not fill a page yet.
    partial: Vec<u8>,
}

impl Chunker {
    /// A chunker at the start of an image. The parameters must be even powers of two as
    /// [`PARAMS`] are.
    pub fn new(params: ChunkerParams) -> Self {
        Self {
            params,
            data: Vec::new(),
            zeros: 0,
            partial: Vec::with_capacity(PAGE),
        }
    }

    /// Takes the next bytes of the stream and gives the pieces that they complete to `emit`.
    pub fn push(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(Piece)) {
        if !self.partial.is_empty() {
            let fill = bytes.len().min(PAGE - self.partial.len());
            self.partial.extend_from_slice(&bytes[..fill]);
            bytes = &bytes[fill..];
            if self.partial.len() < PAGE {
                return;
            }
            let page = std::mem::take(&mut self.partial);
            self.pages(&page, emit);
            self.partial = page;
            self.partial.clear();
        }
        let whole = bytes.len() - bytes.len() % PAGE;
        self.pages(&bytes[..whole], emit);
        self.partial.extend_from_slice(&bytes[whole..]);
        self.cut(false, emit);
    }

    /// Ends the stream.
    pub fn finish(mut self, emit: &mut impl FnMut(Piece)) {
        let tail = std::mem::take(&mut self.partial);
        self.pages(&tail, emit);
        if self.zeros >= self.params.hole_min.into() {
            self.cut(true, emit);
            emit(Piece::Hole(self.zeros));
        } else {
            self.data.resize(self.data.len() + self.zeros as usize, 0);
            self.cut(true, emit);
        }
    }

    /// Sorts pages (the last may be short at the end of the stream) into data and zeros.
    fn pages(&mut self, bytes: &[u8], emit: &mut impl FnMut(Piece)) {
        let mut data_start = None;
        for (i, page) in bytes.chunks(PAGE).enumerate() {
            let at = i * PAGE;
            if *page == ZERO_PAGE[..page.len()] {
                if let Some(start) = data_start.take() {
                    self.data.extend_from_slice(&bytes[start..at]);
                }
                self.zeros += page.len() as u64;
            } else if data_start.is_none() {
                self.end_zeros(emit);
                data_start = Some(at);
            }
        }
        if let Some(start) = data_start {
            self.data.extend_from_slice(&bytes[start..]);
        }
    }

    fn end_zeros(&mut self, emit: &mut impl FnMut(Piece)) {
        if self.zeros >= self.params.hole_min.into() {
            self.cut(true, emit);
            emit(Piece::Hole(self.zeros));
        } else {
            self.data.resize(self.data.len() + self.zeros as usize, 0);
        }
        self.zeros = 0;
    }

    /// Cuts what is certain: a cut depends on at most `len_max` bytes after it, or on the end.
    fn cut(&mut self, end: bool, emit: &mut impl FnMut(Piece)) {
        let params = self.params;
        let keep = if end { 1 } else { params.len_max as usize };
        if self.data.len() < keep {
            return;
        }
        let mut cut = 0;
        let chunks = FastCDC::new(
            &self.data,
            params.len_min as usize,
            params.len_avg as usize,
            params.len_max as usize,
        );
        for chunk in chunks {
            if !end && self.data.len() - chunk.offset < params.len_max as usize {
                break;
            }
            cut = chunk.offset + chunk.length;
            emit(Piece::Data(Bytes::copy_from_slice(
                &self.data[chunk.offset..cut],
            )));
        }
        self.data.drain(..cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use vitrail_proto::id::ChunkId;

    fn cut(bytes: &[u8], slices: &[usize]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut chunker = Chunker::new(PARAMS);
        let mut rest = bytes;
        for &len in slices
            .iter()
            .cycle()
            .take(if slices.is_empty() { 0 } else { 10_000 })
        {
            let (head, tail) = rest.split_at(len.min(rest.len()));
            chunker.push(head, &mut |p| pieces.push(p));
            rest = tail;
        }
        chunker.push(rest, &mut |p| pieces.push(p));
        chunker.finish(&mut |p| pieces.push(p));
        pieces
    }

    fn join(pieces: &[Piece]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Data(bytes) => out.extend_from_slice(bytes),
                Piece::Hole(len) => out.resize(out.len() + *len as usize, 0),
            }
        }
        out
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
        bytes
    }

    /// Data and zero runs of assorted lengths.
    fn image() -> impl Strategy<Value = Vec<u8>> {
        let run = (any::<bool>(), 1usize..200_000, any::<u64>(), any::<bool>());
        proptest::collection::vec(run, 0..8).prop_map(|runs| {
            let mut out = Vec::new();
            for (zero, len, seed, aligned) in runs {
                let len = if aligned {
                    len.next_multiple_of(PAGE)
                } else {
                    len
                };
                out.extend(if zero { vec![0; len] } else { noise(seed, len) });
            }
            out
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_join_to_the_input_whatever_the_slices(
            image in image(),
            slices in proptest::collection::vec(1usize..100_000, 1..5),
        ) {
            let pieces = cut(&image, &[]);
            prop_assert!(join(&pieces) == image);
            prop_assert!(cut(&image, &slices) == pieces);
            for (i, piece) in pieces.iter().enumerate() {
                match piece {
                    Piece::Data(bytes) => prop_assert!(bytes.len() <= PARAMS.len_max as usize),
                    Piece::Hole(len) => {
                        prop_assert!(*len >= PARAMS.hole_min.into());
                        prop_assert!(i == 0 || !matches!(pieces[i - 1], Piece::Hole(_)));
                    }
                }
            }
        }
    }

    #[test]
    fn an_insertion_changes_only_chunks_near_it() {
        let a = noise(1, 8 << 20);
        let mut b = a.clone();
        b.splice(3 << 20..3 << 20, noise(2, 1000));
        let (a, b) = (cut(&a, &[]), cut(&b, &[]));
        let new = b.iter().filter(|piece| !a.contains(piece)).count();
        assert!(new <= 4, "{new} of {} chunks are new", b.len());
    }

    /// Noise that no update of a crate can change: xorshift64*.
    fn fixed_noise(mut state: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            out.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        out.truncate(len);
        out
    }

    /// Boundaries are part of the format: if this fails, stored images no longer dedup against new ones.
    #[test]
    fn boundaries_are_fixed() {
        let mut image = fixed_noise(42, 600_000);
        image.extend(vec![0; 100_000]);
        image.extend(fixed_noise(43, 50_000));
        let pieces: Vec<String> = cut(&image, &[])
            .into_iter()
            .map(|piece| match piece {
                Piece::Data(bytes) => {
                    format!("{} {}", bytes.len(), &ChunkId::of(&bytes).to_string()[..8])
                }
                Piece::Hole(len) => format!("hole {len}"),
            })
            .collect();
        assert_eq!(pieces, BOUNDARIES);
    }

    const BOUNDARIES: &[&str] = &[
        "98448 abeb89f4",
        "46759 3ea444c0",
        "90023 a8ab7a6b",
        "86294 f2db6dcf",
        "68232 9802dd23",
        "19883 2f45d05f",
        "108654 aef3c601",
        "21811 8fe9b106",
        "62008 4cebb39d",
        "hole 94208",
        "53680 e24d1593",
    ];
}
