//! Headers of every format, as valid as an inspector has to care about.

/// The guest's disk in every image here that states a size.
pub(super) const VIRTUAL_SIZE: u64 = 4_198_400;

const SECTOR: usize = 512;

/// Overwrites `image` from `at` on, which must be inside it.
pub(super) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The image with other bytes at one place.
pub(super) fn with(mut image: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    put(&mut image, at, bytes);
    image
}

/// The image with zeros behind it.
pub(super) fn padded(mut image: Vec<u8>, len: usize) -> Vec<u8> {
    assert!(image.len() <= len);
    image.resize(len, 0);
    image
}

pub(super) fn qcow2(version: u32) -> Vec<u8> {
    let mut image = vec![0; 2 * SECTOR];
    put(&mut image, 0, b"QFI\xfb");
    put(&mut image, 4, &version.to_be_bytes());
    put(&mut image, 20, &16_u32.to_be_bytes());
    put(&mut image, 24, &VIRTUAL_SIZE.to_be_bytes());
    put(&mut image, 100, &104_u32.to_be_bytes());
    image
}

pub(super) const QCOW2_BACKING_FILE_OFFSET: usize = 8;
pub(super) const QCOW2_SIZE: usize = 24;
pub(super) const QCOW2_FEATURES: usize = 72;
pub(super) const QCOW2_HEADER_LEN: usize = 100;

pub(super) fn qed() -> Vec<u8> {
    with(vec![0; 2 * SECTOR], 0, b"QED\0")
}

/// A dynamic disk, which begins with a copy of its footer.
pub(super) fn vhd(virtual_size: u64) -> Vec<u8> {
    let image = with(vec![0; 2 * SECTOR], 0, b"conectix");
    with(image, 40, &virtual_size.to_be_bytes())
}

pub(super) fn vdi() -> Vec<u8> {
    let image = with(vec![0; 2 * SECTOR], 0, b"<<< VDI >>>\n");
    let image = with(image, 64, &0xbeda_107f_u32.to_le_bytes());
    with(image, 0x170, &VIRTUAL_SIZE.to_le_bytes())
}

/// 20 sectors with a primary volume descriptor.
pub(super) fn iso(blocks: u32, block_len: u16) -> Vec<u8> {
    let image = with(vec![0; 20 * 2048], 32_768, b"\x01CD001\x01");
    let image = with(image, 32_768 + 80, &blocks.to_le_bytes());
    with(image, 32_768 + 128, &block_len.to_le_bytes())
}

/// An entry of a partition table: boot flag, type, first sector.
pub(super) struct Partition(pub(super) u8, pub(super) u8, pub(super) u32);

pub(super) const PROTECTIVE: Partition = Partition(0, 0xee, 1);

pub(super) fn mbr(partitions: &[Partition]) -> Vec<u8> {
    let mut image = with(vec![0; 64 * SECTOR], 510, b"\x55\xaa");
    for (index, Partition(boot, kind, start)) in partitions.iter().enumerate() {
        let at = 446 + 16 * index;
        put(&mut image, at, &[*boot, 0, 2, 0, *kind]);
        put(&mut image, at + 8, &start.to_le_bytes());
    }
    image
}

pub(super) fn luks(version: u16) -> Vec<u8> {
    let image = with(vec![0; 8 * SECTOR], 0, b"LUKS\xba\xbe");
    let image = with(image, 6, &version.to_be_bytes());
    with(image, 104, &4_u32.to_be_bytes())
}

pub(super) const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\n\
    parentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n# Extent description\n\
    RW 8200 SPARSE \"disk.vmdk\"\n\n# The Disk Data Base\nddb.adapterType = \"ide\"\n";

const VMDK_DESCRIPTOR_SECTORS: u64 = 2;
pub(super) const VMDK_CAPACITY: usize = 12;
pub(super) const VMDK_DESCRIPTOR_SECTOR: usize = 28;
pub(super) const VMDK_DESCRIPTOR_LEN: usize = 36;

/// A sparse image of one file, its descriptor in the second and third sector.
pub(super) fn vmdk(descriptor: &str) -> Vec<u8> {
    let mut image = vec![0; 4 * SECTOR];
    put(&mut image, 0, b"KDMV");
    put(&mut image, 4, &1_u32.to_le_bytes());
    put(
        &mut image,
        VMDK_CAPACITY,
        &(VIRTUAL_SIZE / 512).to_le_bytes(),
    );
    put(&mut image, VMDK_DESCRIPTOR_SECTOR, &1_u64.to_le_bytes());
    put(
        &mut image,
        VMDK_DESCRIPTOR_LEN,
        &VMDK_DESCRIPTOR_SECTORS.to_le_bytes(),
    );
    put(&mut image, 56, &21_u64.to_le_bytes());
    put(&mut image, SECTOR, descriptor.as_bytes());
    image
}

/// Where a `streamOptimized` image has its footer: two sectors before the end.
pub(super) fn vmdk_footer(image: &[u8]) -> usize {
    image.len() - 2 * SECTOR
}

/// As [`vmdk`], of `len` bytes, with its directory behind the data.
pub(super) fn vmdk_stream(len: usize) -> Vec<u8> {
    let descriptor = DESCRIPTOR.replace("monolithicSparse", "streamOptimized");
    let header = with(vmdk(&descriptor), 56, &u64::MAX.to_le_bytes());
    let footer = with(header[..SECTOR].to_vec(), 56, &5_u64.to_le_bytes());
    let mut image = padded(header, len);
    let footer_at = vmdk_footer(&image);
    put(&mut image, footer_at, &footer);
    with(image, footer_at - SECTOR + 12, &3_u32.to_le_bytes())
}

pub(super) const VHDX_REGIONS: usize = 192 << 10;
pub(super) const VHDX_METADATA: usize = 1 << 20;
pub(super) const VHDX_SIZE: usize = VHDX_METADATA + (64 << 10) + 8;

/// Each table has another entry in front of the one that matters.
pub(super) fn vhdx() -> Vec<u8> {
    let mut image = vec![0; VHDX_SIZE + 8];
    put(&mut image, 0, b"vhdxfile");
    put(&mut image, VHDX_REGIONS, b"regi");
    put(&mut image, VHDX_REGIONS + 8, &2_u32.to_le_bytes());
    let entry = VHDX_REGIONS + 16 + 32;
    put(
        &mut image,
        entry,
        b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e",
    );
    put(
        &mut image,
        entry + 16,
        &(VHDX_METADATA as u64).to_le_bytes(),
    );
    put(&mut image, VHDX_METADATA, b"metadata");
    put(&mut image, VHDX_METADATA + 10, &2_u16.to_le_bytes());
    let entry = VHDX_METADATA + 32 + 32;
    put(
        &mut image,
        entry,
        b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8",
    );
    put(&mut image, entry + 16, &((64 << 10) + 8_u32).to_le_bytes());
    put(&mut image, entry + 20, &8_u32.to_le_bytes());
    with(image, VHDX_SIZE, &VIRTUAL_SIZE.to_le_bytes())
}
