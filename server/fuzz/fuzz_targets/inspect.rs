//! Any stream, cut anyhow, has the same facts, and no refusal is ever taken back.
//!
//! The input is a list of parts, each `skip (u16, little-endian), len (u8), bytes`: so many sectors
//! of zeros, then the bytes. So a short input reaches the tables that formats keep a megabyte in.
//! The seeds are an image of each format and a bare vmdk descriptor. In `server/`:
//!
//! ```sh
//! cargo fuzz run -s none inspect fuzz/corpus/inspect fuzz/seeds/inspect -- -dict=fuzz/inspect.dict
//! ```

#![no_main]

use libfuzzer_sys::fuzz_target;
use vitraild::inspect::{Declared, Inspector, Rules};

const SECTOR_LEN: usize = 512;
const STREAM_LEN_MAX: usize = 4 << 20;
const DISK_FORMATS: [&str; 11] = [
    "raw", "qcow2", "qed", "vhd", "vhdx", "vmdk", "vdi", "iso", "gpt", "luks", "ami",
];

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let stream = parts.concat();

    let mut whole = Inspector::new();
    whole.push(&stream);
    let facts = whole.finish();

    let mut cut = Inspector::new();
    let mut refused = Vec::new();
    for part in &parts {
        cut.push(part);
        let refusals = DISK_FORMATS.map(|disk_format| {
            cut.refusal_so_far(bare(disk_format), Rules::default())
                .is_some()
        });
        refused.push(refusals);
    }
    assert_eq!(cut.finish(), facts);

    let verdicts =
        DISK_FORMATS.map(|disk_format| facts.judge(bare(disk_format), Rules::default()).is_err());
    refused.push(verdicts);
    for (before, after) in refused.iter().zip(&refused[1..]) {
        assert!(
            before
                .iter()
                .zip(after)
                .all(|(before, after)| before <= after)
        );
    }
    assert!(
        facts
            .virtual_size
            .is_none_or(|size| size > 0 && size < 1 << 63)
    );
});

fn parts(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut stream_len = 0;
    while let [skip_low, skip_high, len, rest @ ..] = input {
        let skip = SECTOR_LEN * usize::from(u16::from_le_bytes([*skip_low, *skip_high]));
        let (bytes, behind) = rest.split_at(rest.len().min(usize::from(*len)));
        stream_len += skip + bytes.len();
        if stream_len > STREAM_LEN_MAX {
            break;
        }
        parts.extend([vec![0; skip], bytes.to_vec()]);
        input = behind;
    }
    parts
}

fn bare(disk_format: &str) -> Declared<'_> {
    Declared {
        disk_format,
        container_format: "bare",
    }
}
