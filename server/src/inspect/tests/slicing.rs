//! The facts do not depend on how the stream is cut, and no bytes make an inspector panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::images::{self, DESCRIPTOR, PROTECTIVE};
use super::{Rules, bare, inspect};
use crate::inspect::Inspector;

const DISK_FORMATS: [&str; 5] = ["raw", "qcow2", "vmdk", "vhdx", "ami"];

/// Pushes `image` in pieces of these lengths, over and over, and checks the promise of
/// `refusal_so_far` on the way.
fn check(image: &[u8], lens: &[usize]) -> Result<(), TestCaseError> {
    let mut inspector = Inspector::new();
    let mut refused = [false; DISK_FORMATS.len()];
    let mut rest = image;
    for len in lens.iter().cycle() {
        let (piece, behind) = rest.split_at(rest.len().min(*len));
        inspector.push(piece);
        rest = behind;
        for (refused, disk_format) in refused.iter_mut().zip(DISK_FORMATS) {
            let refusal = inspector.refusal_so_far(bare(disk_format), Rules::default());
            prop_assert!(
                !*refused || refusal.is_some(),
                "{} is taken back",
                disk_format
            );
            *refused = refusal.is_some();
        }
        if rest.is_empty() {
            break;
        }
    }
    let facts = inspector.finish();
    for (refused, disk_format) in refused.into_iter().zip(DISK_FORMATS) {
        let verdict = facts.judge(bare(disk_format), Rules::default());
        prop_assert!(
            !refused || verdict.is_err(),
            "{} is taken back",
            disk_format
        );
    }
    prop_assert_eq!(facts, inspect(image));
    Ok(())
}

/// Images of which a few bytes, most likely in a header, are changed, and which may be cut short.
fn image() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop_oneof![
        Just(images::qcow2(3)),
        Just(images::vhd(1 << 20)),
        Just(images::vdi()),
        Just(images::iso(20, 2048)),
        Just(images::mbr(&[PROTECTIVE])),
        Just(images::luks(1)),
        Just(images::vmdk(DESCRIPTOR)),
        Just(images::vmdk_stream(4096)),
        Just(images::vmdk_stream(70_000)),
        Just(images::vhdx()),
        Just(DESCRIPTOR.as_bytes().to_vec()),
    ];
    let places = [
        0,
        512,
        32_768,
        images::VHDX_REGIONS,
        images::VHDX_METADATA,
        images::VHDX_SIZE,
    ];
    let place = (prop::sample::select(places.to_vec()), 0..600_usize);
    let changes = vec((place, any::<u8>()), 0..6);
    let cut = prop_oneof![4 => Just(usize::MAX), 1 => 0..2000_usize, 1 => 0..(2_usize << 20)];
    (whole, changes, cut).prop_map(|(mut image, changes, cut)| {
        for ((place, offset), byte) in changes {
            if let Some(target) = image.get_mut(place + offset) {
                *target = byte;
            }
        }
        image.truncate(cut);
        image
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_slicing_gives_the_same_facts(
        image in image(),
        lens in vec(prop_oneof![1..100_usize, 500..530_usize, 60_000..200_000_usize], 1..5),
    ) {
        // Short pieces only where there are few of them.
        let lens = if image.len() > 100_000 { vec![lens[0].max(4000)] } else { lens };
        check(&image, &lens)?;
    }

    #[test]
    fn any_bytes_behind_any_mark_are_judged(
        mark in prop::sample::select(vec!["", "QFI", "QED\0", "conectix", "vhdxfile", "KDMV", "LUKS"]),
        bytes in vec(any::<u8>(), 0..3000),
    ) {
        let mut image = mark.as_bytes().to_vec();
        if mark == "QFI" {
            image.push(0xfb);
        }
        if mark == "LUKS" {
            image.extend([0xba, 0xbe]);
        }
        image.extend(bytes);
        check(&image, &[700])?;
    }
}
