//! Do images come out as they went in, whole and in any part?

use proptest::prelude::*;
use vitrail_chunkstore::{ImageReader, Ingest, UNIT_DATA_MAX};

use crate::support::images::{KIB, Run, any_image, image, noise, text};
use crate::support::{Site, ingest, raw, read, read_all};

#[test]
fn images_of_every_shape() {
    let mut site = Site::new();
    let page = 4096;
    let shapes: Vec<Vec<u8>> = vec![
        vec![],
        vec![7],
        vec![0],
        vec![0; page - 1],
        vec![0; 16 * KIB],
        vec![0; 40 << 20],
        noise(1, page),
        noise(2, 16 * KIB),
        noise(3, 256 * KIB),
        noise(4, 256 * KIB + 1),
        noise(5, 1 << 20),
        text(6, 3 << 20),
        vec![0xff; 2 << 20],
        image(&[Run::Zeros(page), Run::Noise(7, page), Run::Zeros(page)]),
        image(&[Run::Noise(8, 1), Run::Zeros(99_999), Run::Noise(9, 1)]),
        image(&[
            Run::Zeros(1 << 20),
            Run::Text(10, 70_000),
            Run::Zeros(33 << 20),
        ]),
    ];
    for shape in shapes {
        let id = site.add(shape.clone());
        let manifest = site.store().manifest(id).unwrap();
        assert_eq!(manifest.size(), shape.len() as u64);
        assert_eq!(
            manifest.md5()[..],
            <md5::Md5 as md5::Digest>::digest(&shape)[..]
        );
        assert_eq!(
            manifest.sha512()[..],
            <sha2::Sha512 as sha2::Digest>::digest(&shape)[..]
        );
    }
    site.assert_intact();
    site.reopen_after(|_| {});
    site.assert_clean();
}

#[test]
fn holes_take_no_space() {
    let site = Site::new();
    let bytes = image(&[
        Run::Zeros(64 << 20),
        Run::Noise(1, 8192),
        Run::Zeros(64 << 20),
    ]);
    let id = ingest(site.store(), &bytes).unwrap();
    assert_eq!(site.store().manifest(id).unwrap().data_size(), 8192);
    assert_eq!(site.store().stats().unwrap().unique_bytes, 8192);
}

#[test]
fn how_an_image_is_pushed_does_not_matter() {
    let site = Site::new();
    let bytes = image(&[
        Run::Text(1, 500_001),
        Run::Zeros(90_000),
        Run::Noise(2, 300_000),
    ]);
    let id = ingest(site.store(), &bytes).unwrap();
    for slice in [1000, 4096, 65_537, 1 << 20, 3 << 20] {
        let mut ingest = Ingest::begin(site.store()).unwrap();
        for part in bytes.chunks(slice) {
            ingest.push(part).unwrap();
        }
        assert_eq!(ingest.len(), bytes.len() as u64);
        assert_eq!(ingest.finish(raw()).unwrap().id, id);
    }
}

#[test]
fn units_are_bounded_and_cover_any_range() {
    let mut site = Site::new();
    let bytes = image(&[
        Run::Text(1, 5 << 20),
        Run::Zeros(50 << 20),
        Run::Noise(2, 2 << 20),
        Run::Zeros(20_000),
    ]);
    let id = site.add(bytes.clone());
    let reader = ImageReader::open(site.store(), id).unwrap();
    let size = bytes.len() as u64;
    let mut at = 0;
    while let Some(unit) = reader.unit(at..u64::MAX) {
        let range = unit.range.start as usize..unit.range.end as usize;
        let hole = bytes[range].iter().all(|&byte| byte == 0);
        let most = if hole { 16 << 20 } else { UNIT_DATA_MAX };
        assert!(unit.range.end - unit.range.start <= most);
        at = unit.range.end;
    }
    assert_eq!(at, size);
    assert_eq!(reader.unit(size..u64::MAX), None);
    assert_eq!(reader.unit(size + 1..u64::MAX), None);
    assert_eq!(reader.unit(5..5), None);
    #[allow(clippy::reversed_empty_ranges)] // what a client may send
    let reversed = 9..5;
    assert_eq!(reader.unit(reversed), None);
}

#[test]
fn reading_back_is_independent_of_the_memory() {
    for memory in [0, 24 << 20, 32 << 20] {
        let mut site = Site::with(vitrail_chunkstore::Options {
            memory,
            ..crate::support::options()
        });
        site.add(text(1, 2 << 20));
        site.assert_clean();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_range_of_any_image(
        bytes in any_image(),
        ranges in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 8),
    ) {
        let site = Site::new();
        let id = ingest(site.store(), &bytes).unwrap();
        prop_assert!(read_all(site.store(), id).unwrap() == bytes);
        let reader = ImageReader::open(site.store(), id).unwrap();
        for (a, b) in ranges {
            let (a, b) = (a.index(bytes.len() + 1), b.index(bytes.len() + 1));
            let range = a.min(b)..a.max(b);
            let found = read(&reader, range.start as u64..range.end as u64).unwrap();
            prop_assert!(found == bytes[range.clone()], "{:?}", range);
        }
    }
}
