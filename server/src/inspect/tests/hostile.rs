//! Headers made to mislead, overflow, or exhaust an inspector.

use super::images::{self, DESCRIPTOR, PROTECTIVE, Partition, put, with};
use super::{Declared, Rules, Unsafe, bare, inspect, judge_as, why_unsafe};
use crate::inspect::Format;

#[test]
fn a_stream_cut_at_any_byte_is_raw_or_unsafe_or_whole() {
    // Format, image, the bytes that give it away, the bytes that have to be seen.
    let images = [
        (Format::Qcow2, images::qcow2(3), 4, 512),
        (Format::Vhd, images::vhd(1 << 20), 8, 512),
        (Format::Vdi, images::vdi(), 68, 512),
        (Format::Gpt, images::mbr(&[PROTECTIVE]), 512, 512),
        (Format::Luks, images::luks(1), 6, 592),
        (Format::Vmdk, images::vmdk(DESCRIPTOR), 4, 3 * 512),
        (Format::Iso, images::iso(20, 2048), 32_774, 34_816),
    ];
    for (format, image, marked, needed) in images {
        for len in (0..2000)
            .chain(32_700..35_000)
            .filter(|len| *len <= image.len())
        {
            let facts = inspect(&image[..len]);
            let (found, safety) = match len {
                len if len < marked => (Format::Raw, Ok(())),
                len if len < needed => (format, Err(Unsafe::CutShort(format))),
                _ => (format, Ok(())),
            };
            assert_eq!(
                (facts.format, &facts.safety),
                (found, &safety),
                "{format} cut at {len}"
            );
        }
    }
}

#[test]
fn a_vmdk_stream_without_its_end_is_unsafe() {
    let image = images::vmdk_stream(4096);
    for len in 4..image.len() {
        assert!(inspect(&image[..len]).safety.is_err(), "cut at {len}");
    }
    assert_eq!(inspect(&image).safety, Ok(()));
}

#[test]
fn a_vhdx_cut_before_its_size_is_unsafe() {
    let image = images::vhdx();
    for at in [
        images::VHDX_REGIONS,
        images::VHDX_METADATA,
        images::VHDX_SIZE,
    ] {
        for len in [at - 1, at, at + 1, at + 7] {
            assert_eq!(
                why_unsafe(&image[..len]),
                Unsafe::CutShort(Format::Vhdx),
                "cut at {len}"
            );
        }
    }
    assert_eq!(inspect(&image).virtual_size, Some(images::VIRTUAL_SIZE));
}

#[test]
fn sizes_of_2_to_the_63_are_refused() {
    let size = 1_u64 << 63;
    let sized = [
        with(images::qcow2(3), images::QCOW2_SIZE, &size.to_be_bytes()),
        images::vhd(size),
        with(images::vdi(), 0x170, &size.to_le_bytes()),
        with(images::vhdx(), images::VHDX_SIZE, &size.to_le_bytes()),
        with(
            images::vmdk(DESCRIPTOR),
            images::VMDK_CAPACITY,
            &(size / 512).to_le_bytes(),
        ),
        with(
            images::vmdk(DESCRIPTOR),
            images::VMDK_CAPACITY,
            &u64::MAX.to_le_bytes(),
        ),
    ];
    for image in sized {
        assert_eq!(why_unsafe(&image), Unsafe::TooLarge);
    }
    let largest = i64::MAX as u64;
    assert_eq!(inspect(&images::vhd(largest)).virtual_size, Some(largest));
}

#[test]
fn no_size_is_an_unknown_one() {
    for image in [images::vhd(0), images::iso(0, 2048), images::iso(20, 0)] {
        let facts = inspect(&image);
        assert_eq!((facts.virtual_size, facts.safety), (None, Ok(())));
    }
    // A boot record says nothing of the volume's size, whatever stands in its place.
    let boot_record = with(images::iso(20, 2048), 32_768, &[0]);
    assert_eq!(inspect(&boot_record).virtual_size, None);
    assert_eq!(inspect(&images::iso(20, 2048)).virtual_size, Some(40_960));
}

#[test]
fn qcow2_backing_file_at_any_offset() {
    for offset in [1, 104, u64::MAX] {
        for version in [2, 3] {
            let at = images::QCOW2_BACKING_FILE_OFFSET;
            let image = with(images::qcow2(version), at, &offset.to_be_bytes());
            assert_eq!(why_unsafe(&image), Unsafe::BackingFile);
        }
    }
}

#[test]
fn qcow2_feature_bits() {
    for bit in 0..64 {
        let features = 1_u64 << bit;
        let at = images::QCOW2_FEATURES;
        let image = with(images::qcow2(3), at, &features.to_be_bytes());
        let safety = match bit {
            0 | 1 | 3 => Ok(()),
            2 => Err(Unsafe::DataFile),
            _ => Err(Unsafe::UnknownFeatures(features)),
        };
        assert_eq!(inspect(&image).safety, safety, "bit {bit}");
        // In version 2 this is the start of the first extension.
        let image = with(images::qcow2(2), at, &features.to_be_bytes());
        assert_eq!(inspect(&image).safety, Ok(()), "bit {bit}");
    }
}

#[test]
fn qcow2_versions_nobody_knows() {
    for version in [0, 1, 4, u32::MAX] {
        let safety = Unsafe::Version {
            format: Format::Qcow2,
            version,
        };
        assert_eq!(why_unsafe(&images::qcow2(version)), safety);
    }
}

#[test]
fn qcow2_header_length_does_not_hide_the_features() {
    for header_len in [0, 1, 71, 73, 105, u32::MAX] {
        let at = images::QCOW2_HEADER_LEN;
        let image = with(images::qcow2(3), at, &header_len.to_be_bytes());
        assert_eq!(inspect(&image).safety, Ok(()));
        let image = with(image, images::QCOW2_FEATURES + 7, &[1 << 2]);
        assert_eq!(why_unsafe(&image), Unsafe::DataFile);
    }
}

#[test]
fn qed_is_banned() {
    assert_eq!(why_unsafe(&images::qed()), Unsafe::Banned(Format::Qed));
    assert_eq!(why_unsafe(b"QED\0"), Unsafe::Banned(Format::Qed));
}

#[test]
fn vmdk_descriptors() {
    let line = |line: &str| format!("{DESCRIPTOR}{line}\n");
    let without = |part: &str| DESCRIPTOR.replace(part, "");
    let create_type = |name: &str| DESCRIPTOR.replace("monolithicSparse", name);
    let not_single = Unsafe::Vmdk("the createType is not that of a single sparse file");
    let unknown_line = Unsafe::Vmdk("the descriptor has a line of unknown kind");

    let safe = [
        DESCRIPTOR.to_owned(),
        DESCRIPTOR.to_lowercase(),
        DESCRIPTOR.replace('\n', "\r\n"),
        create_type("streamOptimized"),
        line("changeTrackPath=\"disk-ctk.vmdk\""),
        line("RDONLY 1 ZERO"),
    ];
    for descriptor in safe {
        assert_eq!(
            inspect(&images::vmdk(&descriptor)).safety,
            Ok(()),
            "{descriptor}"
        );
    }
    let unsafe_ones = [
        (String::new(), Unsafe::Vmdk("there is no descriptor")),
        (line("# \u{e9}"), Unsafe::Vmdk("there is no descriptor")),
        (
            line("parentFileNameHint=\"base.vmdk\""),
            Unsafe::BackingFile,
        ),
        (
            line("# parentFileNameHint=\"base.vmdk\""),
            Unsafe::BackingFile,
        ),
        (create_type("monolithicFlat"), not_single.clone()),
        (create_type(""), not_single.clone()),
        (DESCRIPTOR.replace("Sparse\"", "Sparse"), not_single.clone()),
        // Whoever takes another of two lines, or another spelling, is told the same.
        (line("createType=\"monolithicFlat\""), not_single.clone()),
        (line("CREATETYPE=\"vmfs\""), not_single),
        (
            without("createType=\"monolithicSparse\""),
            Unsafe::Vmdk("the descriptor gives no createType"),
        ),
        (
            without("RW 8200 SPARSE \"disk.vmdk\""),
            Unsafe::Vmdk("the descriptor lists no extent"),
        ),
        (
            line("RW 1 FLAT \"/etc/passwd\" 0"),
            Unsafe::Vmdk("an extent names a path"),
        ),
        (
            line("rw\t1\tflat\t\"../x=y\" 0"),
            Unsafe::Vmdk("an extent names a path"),
        ),
        (
            line("RW 1 FLAT \"a=/b\""),
            Unsafe::Vmdk("an extent names a path"),
        ),
        (line("include other"), unknown_line),
    ];
    for (descriptor, safety) in unsafe_ones {
        assert_eq!(
            why_unsafe(&images::vmdk(&descriptor)),
            safety,
            "{descriptor}"
        );
    }
}

#[test]
fn vmdk_headers() {
    let image = || images::vmdk(DESCRIPTOR);
    let place = Unsafe::Vmdk("the descriptor is not in the second sector");
    let version = |version| Unsafe::Version {
        format: Format::Vmdk,
        version,
    };
    let descriptor_sector = images::VMDK_DESCRIPTOR_SECTOR;
    for (image, safety) in [
        (with(image(), 4, &[0]), version(0)),
        (with(image(), 4, &[4]), version(4)),
        (with(image(), 4, &[0xff; 4]), version(u32::MAX)),
        (with(image(), descriptor_sector, &[0]), place.clone()),
        (with(image(), descriptor_sector, &[2]), place.clone()),
        (with(image(), descriptor_sector, &[0xff; 8]), place),
        (
            with(image(), images::VMDK_DESCRIPTOR_LEN, &[0]),
            Unsafe::Vmdk("there is no descriptor"),
        ),
        (
            with(image(), images::VMDK_CAPACITY, &[0; 8]),
            Unsafe::Vmdk("the header states no capacity"),
        ),
    ] {
        assert_eq!(why_unsafe(&image), safety);
    }
}

#[test]
fn vmdk_descriptor_of_any_stated_length() {
    let stated = |sectors: u64| {
        let at = images::VMDK_DESCRIPTOR_LEN;
        with(images::vmdk(DESCRIPTOR), at, &sectors.to_le_bytes())
    };
    // A reader that ignores the length would go on behind it.
    let no_end = Unsafe::Vmdk("the descriptor has no end");
    let full = with(stated(1), 512, "#".repeat(512).as_bytes());
    assert_eq!(why_unsafe(&full), no_end);
    for sectors in [2048, 1 << 32, u64::MAX / 512 + 1, u64::MAX] {
        assert_eq!(why_unsafe(&stated(sectors)), Unsafe::CutShort(Format::Vmdk));
        let image = images::padded(stated(sectors), 3 << 20);
        assert_eq!(inspect(&image).safety, Ok(()));
        let mut image = image;
        image[512..].fill(b'\n');
        assert_eq!(why_unsafe(&image), no_end);
    }
}

#[test]
fn vmdk_footers() {
    let image = || images::vmdk_stream(8192);
    let footer = images::vmdk_footer(&image());
    let differ = Unsafe::Vmdk("header and footer differ");
    let marker = Unsafe::Vmdk("the footer's marker is invalid");
    let end = Unsafe::Vmdk("the end-of-stream marker is invalid");
    assert_eq!(inspect(&image()).safety, Ok(()));
    for (at, byte, safety) in [
        (footer, b'C', &differ),
        (footer + 4, 2, &differ),
        (footer + images::VMDK_CAPACITY, 0xff, &differ),
        (footer + images::VMDK_DESCRIPTOR_SECTOR, 2, &differ),
        (footer + images::VMDK_DESCRIPTOR_LEN, 9, &differ),
        (footer - 512 + 8, 1, &marker),
        (footer - 512 + 12, 0, &marker),
        (footer - 1, 1, &marker),
        (footer + 512, 1, &end),
        (footer + 512 + 12, 1, &end),
        (footer + 1023, 1, &end),
    ] {
        assert_eq!(why_unsafe(&with(image(), at, &[byte])), *safety, "at {at}");
    }
    assert_eq!(
        why_unsafe(&with(image(), footer + 56, &[0xff; 8])),
        Unsafe::Vmdk("the footer announces another footer"),
    );
    // Without the announcement nobody looks for it.
    let unannounced = with(image(), 56, &21_u64.to_le_bytes());
    assert_eq!(inspect(&with(unannounced, footer, b"C")).safety, Ok(()));
}

#[test]
fn vmdk_bare_descriptors() {
    let flat = DESCRIPTOR.replace("monolithicSparse", "monolithicFlat");
    let late = format!("{}{flat}", "# nothing yet\n".repeat(1000));
    for descriptor in [
        DESCRIPTOR,
        &flat,
        &late,
        "CREATETYPE=\"",
        "createType=\"\n\u{e9}",
    ] {
        let facts = inspect(descriptor.as_bytes());
        let is_text = descriptor.is_ascii();
        assert_eq!(facts.format == Format::Vmdk, is_text, "{descriptor}");
        assert_eq!(
            facts.safety == Err(Unsafe::DataFile),
            is_text,
            "{descriptor}"
        );
    }
    let script = "#!/bin/sh\necho createType=none\n".repeat(1000);
    assert_eq!(inspect(script.as_bytes()).format, Format::Raw);
}

#[test]
fn vhdx_tables_that_lead_nowhere_or_back() {
    let regions = images::VHDX_REGIONS;
    let metadata = images::VHDX_METADATA;
    let region_entry = regions + 48;
    let item_entry = metadata + 64;
    let at = |at: usize, bytes: &[u8]| with(images::vhdx(), at, bytes);
    let back = Unsafe::Vhdx("the metadata lie before the end of the region table");
    let inside = Unsafe::Vhdx("the virtual disk size lies inside the metadata table");
    let lacking = Unsafe::Vhdx("a table lacks the entry that leads to the virtual disk size");
    let long = Unsafe::Vhdx("a table has more than 2047 entries");
    let size_len = Unsafe::Vhdx("the virtual disk size is not of 8 bytes");
    let cut = Unsafe::CutShort(Format::Vhdx);
    for (image, safety) in [
        (
            at(regions, b"x"),
            Unsafe::Vhdx("the region table has no signature"),
        ),
        (at(regions + 8, &[0]), lacking.clone()),
        (at(regions + 8, &2048_u32.to_le_bytes()), long.clone()),
        (at(regions + 8, &[0xff; 4]), long.clone()),
        (at(region_entry, b"x"), lacking.clone()),
        (at(region_entry + 16, &[0; 8]), back.clone()),
        (at(region_entry + 16, &(regions as u64).to_le_bytes()), back),
        (
            at(region_entry + 16, &(1_u64 << 63).to_le_bytes()),
            cut.clone(),
        ),
        (at(region_entry + 16, &[0xff; 8]), cut.clone()),
        (
            at(metadata, b"x"),
            Unsafe::Vhdx("the metadata table has no signature"),
        ),
        (at(metadata + 10, &[0]), lacking.clone()),
        (at(metadata + 10, &2048_u16.to_le_bytes()), long.clone()),
        (at(metadata + 10, &[0xff; 2]), long),
        (at(item_entry, b"x"), lacking),
        (at(item_entry + 16, &[0; 4]), inside.clone()),
        (at(item_entry + 16, &0xffff_u32.to_le_bytes()), inside),
        (at(item_entry + 16, &[0xff; 4]), cut),
        (at(item_entry + 20, &[0]), size_len.clone()),
        (at(item_entry + 20, &[0xff; 4]), size_len),
    ] {
        assert_eq!(why_unsafe(&image), safety);
    }
    let most_entries = at(regions + 8, &2047_u32.to_le_bytes());
    let most_entries = with(most_entries, metadata + 10, &2047_u16.to_le_bytes());
    assert_eq!(
        inspect(&most_entries).virtual_size,
        Some(images::VIRTUAL_SIZE)
    );
}

#[test]
fn partition_tables() {
    let linux = |boot| Partition(boot, 0x83, 2048);
    let beside = Err(Unsafe::Mbr("there are partitions beside the GPT"));
    let misplaced = Err(Unsafe::Mbr("the GPT does not start at sector 1"));
    for (partitions, safety) in [
        (vec![PROTECTIVE], Ok(())),
        (vec![linux(0x80), linux(0)], Ok(())),
        (vec![], Err(Unsafe::Mbr("no partition is defined"))),
        (
            vec![linux(0x81)],
            Err(Unsafe::Mbr("a partition has an invalid boot flag")),
        ),
        (vec![PROTECTIVE, linux(0)], beside.clone()),
        (vec![linux(0), PROTECTIVE], beside.clone()),
        (vec![Partition(0, 0, 0), PROTECTIVE], beside),
        (vec![Partition(0, 0xee, 2)], misplaced.clone()),
    ] {
        assert_eq!(inspect(&images::mbr(&partitions)).safety, safety);
    }
    let cylinder = with(images::mbr(&[PROTECTIVE]), 447, &[1]);
    assert_eq!(inspect(&cylinder).safety, misplaced);
    let mut fat = images::mbr(&[]);
    put(&mut fat, 16, &[2]);
    put(&mut fat, 21, &[0xf8]);
    assert_eq!(inspect(&fat).format, Format::Raw);
}

#[test]
fn odd_partition_tables_matter_only_where_they_are_read() {
    let kernel = inspect(&images::mbr(&[]));
    let lenient = Rules {
        check_mbr: false,
        ..Rules::default()
    };
    let any_format = Rules {
        require_match: false,
        ..Rules::default()
    };
    assert!(judge_as("raw", &kernel).is_err());
    assert!(kernel.judge(bare("raw"), any_format).is_err());
    assert_eq!(
        kernel
            .judge(bare("raw"), lenient)
            .map(|verdict| verdict.virtual_size),
        Ok(Some(kernel.len)),
    );
    assert_eq!(
        judge_as("aki", &kernel).map_err(|refusal| refusal.to_string()),
        Err("Image disk_format aki does not match stream data gpt".to_owned()),
    );
    assert_eq!(
        kernel
            .judge(bare("aki"), any_format)
            .map(|verdict| verdict.virtual_size),
        Ok(None),
    );
}

#[test]
fn luks_versions_and_payloads() {
    let facts = inspect(&images::luks(1));
    assert_eq!(facts.virtual_size, Some(facts.len - 4 * 512));
    for version in [0, 2, u16::MAX] {
        let safety = Unsafe::Version {
            format: Format::Luks,
            version: version.into(),
        };
        assert_eq!(why_unsafe(&images::luks(version)), safety);
    }
    let beyond = with(images::luks(1), 104, &[0xff; 4]);
    assert_eq!(inspect(&beyond).virtual_size, None);
}

#[test]
fn several_formats_at_once_are_refused_but_for_a_bootable_iso() {
    let iso_in = |image: Vec<u8>| with(images::padded(image, 81_920), 32_768, b"\x01CD001\x01");
    let bootable = inspect(&iso_in(images::mbr(&[])));
    assert_eq!((bootable.format, bootable.safety), (Format::Iso, Ok(())));

    let image = iso_in(images::qcow2(3));
    let several = Unsafe::SeveralFormats(vec![Format::Qcow2, Format::Iso]);
    assert_eq!(
        several.to_string(),
        "the data is of several formats at once: qcow2, iso"
    );
    assert_eq!(why_unsafe(&image), several);
    let image = with(images::vdi(), 510, b"\x55\xaa");
    assert_eq!(
        why_unsafe(&image),
        Unsafe::SeveralFormats(vec![Format::Vdi, Format::Gpt])
    );
    let image = iso_in(with(images::luks(1), 510, b"\x55\xaa"));
    assert_eq!(
        why_unsafe(&image),
        Unsafe::SeveralFormats(vec![Format::Iso, Format::Gpt, Format::Luks]),
    );
}

#[test]
fn only_bare_and_not_empty_streams_are_inspected() {
    let image = with(images::qcow2(3), images::QCOW2_BACKING_FILE_OFFSET, &[1]);
    let facts = inspect(&image);
    let in_container = Declared {
        disk_format: "qcow2",
        container_format: "ova",
    };
    let verdict = facts.judge(in_container, Rules::default());
    assert_eq!(verdict.map(|verdict| verdict.virtual_size), Ok(None));
    let verdict = judge_as("qcow2", &inspect(&[]));
    assert_eq!(verdict.map(|verdict| verdict.virtual_size), Ok(None));
}

#[test]
fn formats_without_a_mark_accept_what_has_none() {
    let verdict = |image: &[u8]| judge_as("ami", &inspect(image)).is_ok();
    assert!(verdict(b"anything"));
    assert!(!verdict(&images::qcow2(3)));
}

#[test]
fn without_a_match_required_only_safety_is_judged() {
    let any_format = Rules {
        require_match: false,
        ..Rules::default()
    };
    let raw = inspect(&[1; 1000]);
    let verdict = raw.judge(bare("vmdk"), any_format);
    assert_eq!(verdict.map(|verdict| verdict.virtual_size), Ok(None));
    let image = with(images::qcow2(3), images::QCOW2_BACKING_FILE_OFFSET, &[1]);
    assert!(inspect(&image).judge(bare("vmdk"), any_format).is_err());
}
