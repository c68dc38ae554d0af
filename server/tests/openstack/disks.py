"""Disk files of every kind that the record of formats speaks of: made by qemu-img from one raw disk."""

import subprocess

MIB = 1 << 20
# A little more than 4 MiB, so that what rounds shows that it does.
DISK_LEN = 4 * MIB + 4096
SECTOR = 2048


def make(directory):
    """The files by the record's names."""
    raw = directory / "raw-plain.raw"
    raw.write_bytes(bytes(MIB) + bytes(i * 31 % 251 for i in range(65536)) + bytes(DISK_LEN - MIB - 65536))

    def img(*arguments):
        subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def converted(name, kind, *options):
        made = directory / name
        img("convert", "-f", "raw", "-O", kind, *options, raw, made)
        return made

    files = [
        raw,
        written(directory / "df.raw", bytes(4 * MIB)),
        written(directory / "gpt-plain.gpt", gpt()),
        written(directory / "iso-plain.iso", iso()),
        converted("qcow2-plain.qcow2", "qcow2"),
        converted("qcow2-v2.qcow2", "qcow2", "-o", "compat=0.10"),
        converted("vdi-plain.vdi", "vdi"),
        converted("vhd-plain.vhd", "vpc"),
        converted("vhdx-plain.vhdx", "vhdx"),
        converted("vmdk-plain.vmdk", "vmdk"),
        converted("vmdk-stream.vmdk", "vmdk", "-o", "subformat=streamOptimized"),
        # The descriptor, and beside it the extent that it names.
        converted("vmdk-flat.vmdk", "vmdk", "-o", "subformat=monolithicFlat"),
    ]
    backed = directory / "qcow2-backing.qcow2"
    img("create", "-f", "qcow2", "-F", "raw", "-b", raw, backed)
    outside = directory / "qcow2-datafile.qcow2"
    img("create", "-f", "qcow2", "-o", f"data_file={directory / 'outside.raw'}", outside, DISK_LEN)
    files += [backed, outside, directory / "vmdk-flat-flat.vmdk"]
    return {file.name: file for file in files}


def written(file, content):
    file.write_bytes(content)
    return file


def gpt():
    """A disk with a protective partition, as every GPT disk has one."""
    disk = bytearray(4 * MIB)
    disk[446:462] = bytes([0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF]) + (1).to_bytes(4, "little") + b"\xff" * 4
    disk[510:512] = b"\x55\xaa"
    disk[512:520] = b"EFI PART"
    return bytes(disk)


def iso():
    """A file system of ISO 9660; as that of the record, it does not say how long it is."""
    disk = bytearray(40 * SECTOR)
    at = 16 * SECTOR
    disk[at : at + 7] = b"\x01CD001\x01"
    disk[at + SECTOR : at + SECTOR + 7] = b"\xffCD001\x01"
    return bytes(disk)
