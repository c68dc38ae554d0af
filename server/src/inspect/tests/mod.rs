//! Images that are made here by hand, header by header, and what becomes of them.

mod early;
mod hostile;
mod images;
mod recorded;
mod slicing;

use super::{Declared, Facts, Inspector, Refusal, Rules, Unsafe, Verdict};

fn inspect(image: &[u8]) -> Facts {
    let mut inspector = Inspector::new();
    inspector.push(image);
    inspector.finish()
}

fn judge_as(disk_format: &str, facts: &Facts) -> Result<Verdict, Refusal> {
    facts.judge(bare(disk_format), Rules::default())
}

fn bare(disk_format: &str) -> Declared<'_> {
    Declared {
        disk_format,
        container_format: "bare",
    }
}

fn why_unsafe(image: &[u8]) -> Unsafe {
    inspect(image).safety.expect_err("the image is unsafe")
}
