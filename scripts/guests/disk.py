"""A bootable disk image without root, loop devices or mounts: MBR, GRUB, one ext4 partition, qcow2."""

import struct
from pathlib import Path

from .tools import BuildError, as_root, run

SECTOR = 512
PARTITION_START = 2048  # sectors; GRUB's core lives between the MBR and here
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux16", "iorw", "memrw")

COMMANDS = ("sfdisk", "mke2fs", "grub-mkimage", "qemu-img", "unshare")
FILES = {str(GRUB / "boot.img"): "grub-pc-bin"}

# Offsets in GRUB's boot.img. Source: grub-core/boot/i386/pc/boot.S and include/grub/i386/pc/boot.h
BOOT_CODE_BYTES = 440
KERNEL_SECTOR = 0x5C  # where the core starts, a 64-bit sector number
BOOT_DRIVE = 0x64  # 0xff: the drive the BIOS booted from
DRIVE_CHECK = 0x66  # two no-ops here trust the BIOS's drive number
# The list of blocks at the end of the core's first sector. Source: diskboot.S, struct grub_pc_bios_boot_blocklist
BLOCK_LIST = SECTOR - 12
CORE_SEGMENT = 0x820


def make(tree: Path, label: str, size_mib: int, out: Path, ext4_options: str = "") -> None:
    """Write the tree, which holds boot/grub/grub.cfg, to a bootable qcow2 of this virtual size."""
    raw = out.with_suffix(".raw")
    make_raw(tree, label, size_mib, raw, ext4_options)
    convert(raw, out)


def convert(raw: Path, out: Path) -> None:
    """Turn the raw disk into a qcow2; the raw one is gone then."""
    run("qemu-img", "convert", "-O", "qcow2", raw, out, doing=f"convert the disk to {out.name}")
    raw.unlink()


def make_raw(tree: Path, label: str, size_mib: int, raw: Path, ext4_options: str = "") -> None:
    """Write the tree to a bootable raw disk."""
    with raw.open("wb") as file:
        file.truncate(size_mib << 20)
    table = f"label: dos\nstart={PARTITION_START}, type=83, bootable\n".encode()
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", raw, stdin=table, doing="write the partition table")
    _file_system(tree, label, size_mib, raw, ext4_options)
    _install_grub(raw, raw.parent)


def _file_system(tree: Path, label: str, size_mib: int, raw: Path, options: str) -> None:
    offset = PARTITION_START * SECTOR
    extended = f"offset={offset},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    # GRUB 2.06 cannot read the two features that are switched off.
    features = "^metadata_csum_seed,^orphan_file"
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-E", extended, "-m", "0", *options.split()]
    size = f"{(size_mib << 10) - (offset >> 10)}k"
    run(*as_root(*words, "-L", label, "-d", tree, raw, size), doing=f"fill the file system {label} of {size_mib} MiB")


def _install_grub(raw: Path, scratch: Path) -> None:
    image = scratch / "grub-core.img"
    prefix = "(,msdos1)/boot/grub"  # on the drive that was booted, whichever that is
    run("grub-mkimage", "-O", "i386-pc", "-o", image, "-p", prefix, *GRUB_MODULES, doing="make the GRUB core image")
    core = bytearray(image.read_bytes())
    core += bytes(-len(core) % SECTOR)
    sectors = len(core) // SECTOR
    if sectors >= PARTITION_START - 1:
        raise BuildError(f"the GRUB core has {sectors} sectors: no room before the partition")
    struct.pack_into("<QHH", core, BLOCK_LIST, 2, sectors - 1, CORE_SEGMENT)
    with raw.open("r+b") as disk:
        mbr = bytearray(disk.read(SECTOR))
        mbr[:BOOT_CODE_BYTES] = _boot_code()
        disk.seek(0)
        disk.write(mbr + core)


def _boot_code() -> bytes:
    boot = bytearray((GRUB / "boot.img").read_bytes()[:SECTOR])
    struct.pack_into("<Q", boot, KERNEL_SECTOR, 1)
    boot[BOOT_DRIVE] = 0xFF
    boot[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    return bytes(boot[:BOOT_CODE_BYTES])
