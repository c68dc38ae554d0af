//! What a real Glance 33 answered to uploads with format matching on.

use std::path::Path;
use std::process::Command;

use super::images::{self, PROTECTIVE, QCOW2_BACKING_FILE_OFFSET, QCOW2_FEATURES};
use super::{inspect, judge_as};

/// File, its length in bytes, declared `disk_format`, and the `virtual_size` that the record got or
/// how the message of a 415 began.
const RECORDED: &str = "
    df.raw                 4194304  raw    4194304
    df.raw                 4194304  qcow2  Image disk_format qcow2 does not match stream data raw
    gpt-plain.gpt          4194304  raw    4194304
    iso-plain.iso            81920  iso    none
    iso-plain.iso            81920  raw    81920
    qcow2-backing.qcow2     196616  qcow2  Image failed safety checks
    qcow2-backing.qcow2     196616  raw    Image failed safety checks
    qcow2-datafile.qcow2    327680  qcow2  Image failed safety checks
    qcow2-datafile.qcow2    327680  raw    Image failed safety checks
    qcow2-plain.qcow2       393216  qcow2  4198400
    qcow2-plain.qcow2       393216  raw    393216
    qcow2-v2.qcow2          393216  qcow2  4198400
    qcow2-v2.qcow2          393216  raw    393216
    raw-plain.raw          4198400  raw    4198400
    raw-plain.raw          4198400  qcow2  Image disk_format qcow2 does not match stream data raw
    vdi-plain.vdi          1049600  vdi    4198400
    vdi-plain.vdi          1049600  raw    1049600
    vhd-plain.vhd          2100224  vhd    4212736
    vhd-plain.vhd          2100224  raw    2100224
    vhdx-plain.vhdx       16777216  vhdx   4198400
    vhdx-plain.vhdx       16777216  raw    16777216
    vmdk-flat-flat.vmdk    4198400  vmdk   Image disk_format vmdk does not match stream data raw
    vmdk-flat-flat.vmdk    4198400  raw    4198400
    vmdk-flat.vmdk             512  vmdk   Image disk_format vmdk does not match stream data raw
    vmdk-flat.vmdk             512  raw    512
    vmdk-plain.vmdk         131072  vmdk   4198400
    vmdk-plain.vmdk         131072  raw    131072
    vmdk-stream.vmdk        131072  vmdk   4198400
    vmdk-stream.vmdk        131072  raw    131072
";

#[derive(Debug)]
struct Row {
    file: &'static str,
    len: usize,
    disk_format: &'static str,
    answer: &'static str,
}

fn rows() -> impl Iterator<Item = Row> {
    let row = |line: &'static str| {
        let (file, rest) = line.split_once(' ')?;
        let (len, rest) = rest.trim_start().split_once(' ')?;
        let (disk_format, answer) = rest.trim_start().split_once(' ')?;
        let len = len.parse().ok()?;
        Some(Row {
            file,
            len,
            disk_format,
            answer: answer.trim_start(),
        })
    };
    let lines = RECORDED
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines.map(move |line| row(line).unwrap_or_else(|| panic!("malformed row: {line}")))
}

#[test]
fn headers_get_the_recorded_answers() {
    for row in rows() {
        let image = images::padded(by_hand(row.file), row.len);
        assert_eq!(answer(&image, &row), row.answer, "{row:?}");
    }
    assert_eq!(rows().count(), 29);
}

/// The lengths depend on what is in the disk and on the release of qemu-img; the rest does not.
#[test]
fn files_of_qemu_img_get_the_recorded_answers() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!("qemu-img is not installed: nothing was compared");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("disk"), vec![0x5a; 4_198_400]).expect("the disk is written");
    for row in rows() {
        if let Some(image) = by_qemu_img(dir.path(), row.file) {
            let whole = row.answer == row.len.to_string();
            let expected = if whole {
                image.len().to_string()
            } else {
                row.answer.to_owned()
            };
            assert_eq!(answer(&image, &row), expected, "{row:?}");
        }
    }
}

/// In the words of the row, a message as far as that goes.
fn answer(image: &[u8], row: &Row) -> String {
    match judge_as(row.disk_format, &inspect(image)) {
        Ok(verdict) => verdict
            .virtual_size
            .map_or("none".to_owned(), |size| size.to_string()),
        Err(refusal) => refusal.to_string().chars().take(row.answer.len()).collect(),
    }
}

/// The head of the file; the rest is zero.
fn by_hand(file: &str) -> Vec<u8> {
    match file {
        "df.raw" | "raw-plain.raw" | "vmdk-flat-flat.vmdk" => Vec::new(),
        "gpt-plain.gpt" => images::mbr(&[PROTECTIVE]),
        "iso-plain.iso" => images::iso(0, 0),
        "qcow2-plain.qcow2" => images::qcow2(3),
        "qcow2-v2.qcow2" => images::qcow2(2),
        "qcow2-backing.qcow2" => {
            images::with(images::qcow2(3), QCOW2_BACKING_FILE_OFFSET + 6, &[2, 0])
        }
        "qcow2-datafile.qcow2" => images::with(images::qcow2(3), QCOW2_FEATURES + 7, &[1 << 2]),
        "vdi-plain.vdi" => images::vdi(),
        "vhd-plain.vhd" => images::vhd(4_212_736),
        "vhdx-plain.vhdx" => images::vhdx(),
        "vmdk-flat.vmdk" => images::DESCRIPTOR
            .replace("monolithicSparse", "monolithicFlat")
            .into_bytes(),
        "vmdk-plain.vmdk" => images::vmdk(images::DESCRIPTOR),
        "vmdk-stream.vmdk" => images::vmdk_stream(131_072),
        other => panic!("no image {other}"),
    }
}

/// The disk as converted by qemu-img, or `None` for a file of another origin.
fn by_qemu_img(dir: &Path, file: &str) -> Option<Vec<u8>> {
    let (format, options) = match file {
        "qcow2-plain.qcow2" => ("qcow2", "compat=1.1"),
        "qcow2-v2.qcow2" => ("qcow2", "compat=0.10"),
        "qcow2-backing.qcow2" => ("qcow2", "backing_file=disk,backing_fmt=raw"),
        "qcow2-datafile.qcow2" => ("qcow2", "data_file=datafile"),
        "vdi-plain.vdi" => ("vdi", "static=off"),
        "vhd-plain.vhd" => ("vpc", "subformat=dynamic"),
        "vhdx-plain.vhdx" => ("vhdx", "subformat=dynamic"),
        "vmdk-flat.vmdk" => ("vmdk", "subformat=monolithicFlat"),
        "vmdk-plain.vmdk" => ("vmdk", "subformat=monolithicSparse"),
        "vmdk-stream.vmdk" => ("vmdk", "subformat=streamOptimized"),
        _ => return None,
    };
    let output = Command::new("qemu-img")
        .current_dir(dir)
        .args([
            "convert", "-f", "raw", "-O", format, "-o", options, "disk", file,
        ])
        .output()
        .expect("qemu-img runs");
    assert!(
        output.status.success(),
        "{file}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(std::fs::read(dir.join(file)).expect("qemu-img wrote the image"))
}
