"""What starts a disk guest: kernel, modules, initramfs and GRUB's configuration, the same for tiny and debian."""

from pathlib import Path

from . import kernel, packages, rootfs, vmlinuz
from .tools import BuildError, progress

COMMANDS = ("cpio", "kmod", "lz4")
SOURCES = ("boot.py", "disk.py", "kernel.py", "rootfs.py", "vmlinuz.py", "files/initramfs")

# The generic kernel has AHCI, without which a q35 machine has no CD-ROM; see vmlinuz.py for the cloud flavour's part.
GENERIC, CLOUD = "linux-image-amd64", "linux-image-cloud-amd64"
LOADER_PACKAGES = ("busybox-static",)

# nokaslr is necessary (see vmlinuz.py); the rest saves tenths of a second each on an emulated processor.
COMMAND_LINE = "console=tty0 console=ttyS0 quiet nokaslr mitigations=off no_timer_check edd=off cryptomgr.notests"
# After a reset QEMU still watches the memory where the kernel's code was, and every write there takes long: unpacking
# took 6 s instead of 0.3 s. So GRUB first lets fw_cfg clear 16-42 MiB, one large write that ends the watching.
# Source: docs/specs/fw_cfg.txt of QEMU (a DMA access at 0x7c00: select nothing and read 26 MiB; big-endian).
CLEAR_OLD_KERNEL = """write_dword 0x7c00 0x0a00ffff
write_dword 0x7c04 0x0000a001
write_dword 0x7c08 0
write_dword 0x7c0c 1
outl 0x518 0x007c0000
"""

DISK_MODULES = [
    "ext4",
    "crc32c_generic",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "ata_piix",
    "ahci",
    "sd_mod",
    "sr_mod",
    "isofs",
    "nvme",
    "mptspi",
    "sym53c8xx",
]
MODULES = [
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mem",
    "virtio_input",
    "i6300esb",
    "iTCO_wdt",
    "e1000",
    "e1000e",
    "8139cp",
    "8139too",
    "ne2k_pci",
    "vmxnet3",
    "sg",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_iso8859_1",
    "nls_utf8",
    "button",
    "evdev",
    "loop",
    "9p",
    "9pnet_virtio",
    "virtiofs",
    "fuse",
    "dummy",
    "veth",
    "bridge",
    "8021q",
    "bonding",
    "tun",
    "autofs4",
    "vmw_vsock_virtio_transport",
    "pvpanic_pci",
    "pvpanic_mmio",
    "uhci_hcd",
    "ehci_pci",
    "xhci_pci",
    "usb_storage",
    "usbhid",
    "hid_generic",
    "psmouse",
    "qemu_fw_cfg",
    "nfnetlink",
]


def grub_config(more_arguments: str = "") -> str:
    """Return grub.cfg.

    linux16 enters the kernel at 1 MiB; "linux" wants 16 MiB and GRUB moves 54 MiB there byte by byte: 1.7 s under TCG.
    """
    arguments = f"{COMMAND_LINE} {more_arguments}".strip()
    return f"set timeout=0\n{CLEAR_OLD_KERNEL}linux16 /boot/vmlinuz {arguments}\ninitrd16 /boot/initrd\nboot\n"


def kernel_packages() -> list[str]:
    """Return the packages that install() takes."""
    return [*(packages.kernel_package(name) for name in (GENERIC, CLOUD)), *LOADER_PACKAGES]


def install(root: Path, scratch: Path) -> None:
    """Put boot/vmlinuz, boot/initrd and lib/modules into a root."""
    generic, cloud, *others = kernel_packages()
    scratch.mkdir()
    packages.unpack([generic, *others], scratch / "generic")
    packages.unpack([cloud], scratch / "cloud")
    kernel.prepare(scratch / "generic")
    kernel.modules(scratch / "generic", root, [*DISK_MODULES, *MODULES])
    progress("packing the kernel")
    (root / "boot").mkdir(exist_ok=True)
    images = (kernel.image(scratch / name).read_bytes() for name in ("generic", "cloud"))
    (root / "boot/vmlinuz").write_bytes(_quick_kernel(*images))
    _initramfs(scratch / "generic", scratch / "initramfs", root / "boot/initrd")


def _quick_kernel(generic: bytes, cloud: bytes) -> bytes:
    try:
        return vmlinuz.quick(generic, cloud)
    except BuildError as error:
        progress(f"the guest will boot 2 s slower, with the kernel as Debian packs it: {error}")
        return generic


def _initramfs(stage: Path, root: Path, out: Path) -> None:
    for name in ("bin", "dev", "proc", "sys", "root"):
        (root / name).mkdir(parents=True)
    rootfs.install(root, "initramfs", {"init": "init"})
    (root / "bin/busybox").write_bytes((stage / "bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for name in ("sh", "cat", "mount", "umount", "modprobe", "sleep", "switch_root"):
        (root / "bin" / name).symlink_to("busybox")
    kernel.modules(stage, root, DISK_MODULES)
    kernel.pack_initramfs(root, out)
