"""The tiny guest: Debian's kernel, busybox, dropbear and the QEMU guest agent on an ext4 disk."""

from pathlib import Path

from . import disk, kernel, packages, rootfs, vmlinuz
from .cache import Guest
from .tools import BuildError, progress, require

# The generic kernel has AHCI, without which a q35 machine has no CD-ROM; see vmlinuz.py for the cloud flavour's part.
KERNEL = "linux-image-amd64"
CLOUD_KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    "bash busybox-static doas dropbear-bin libaudit1 libc6 libcap-ng0 libcrypt1 libglib2.0-0 libnuma1 "
    "libpam-modules libpam0g libpcre2-8-0 libtinfo6 libtomcrypt1 libtommath1 libudev1 liburing2 libgmp10 "
    "opendoas openssh-sftp-server qemu-guest-agent zlib1g"
).split()

LABEL = "tinyroot"
SIZE_MIB = 128
# nokaslr, mitigations, edd, notests: each saves tenths of a second of emulated boot.
COMMAND_LINE = "console=tty0 console=ttyS0 quiet nokaslr mitigations=off no_timer_check edd=off cryptomgr.notests"
# linux16 enters at 1 MiB; "linux" wants 16 MiB and GRUB moves 54 MiB there byte by byte: 1.7 s under TCG.
#
# After a reset QEMU still watches the memory where the kernel's code was, and every write there takes long: unpacking
# took 6 s instead of 0.3 s. So GRUB first lets fw_cfg clear 16-42 MiB, one large write that ends the watching.
# Source: docs/specs/fw_cfg.txt of QEMU (a DMA access at 0x7c00: select nothing and read 26 MiB; big-endian).
CLEAR_OLD_KERNEL = """write_dword 0x7c00 0x0a00ffff
write_dword 0x7c04 0x0000a001
write_dword 0x7c08 0
write_dword 0x7c0c 1
outl 0x518 0x007c0000
"""
GRUB_CONFIG = f"""set timeout=0
{CLEAR_OLD_KERNEL}\
linux16 /boot/vmlinuz {COMMAND_LINE}
initrd16 /boot/initrd
boot
"""

DISK_MODULES = (
    "ext4 crc32c_generic virtio_pci virtio_blk virtio_scsi ata_piix ahci sd_mod nvme mptspi sym53c8xx"
).split()
MODULES = (
    "virtio_net virtio_console virtio_rng virtio_balloon virtio_mem virtio_input i6300esb iTCO_wdt "
    "e1000 e1000e 8139cp 8139too ne2k_pci vmxnet3 sr_mod sg isofs vfat nls_ascii nls_cp437 nls_iso8859_1 nls_utf8 "
    "button evdev loop 9p 9pnet_virtio virtiofs fuse dummy veth bridge 8021q bonding tun "
    "vmw_vsock_virtio_transport pvpanic_pci uhci_hcd ehci_pci xhci_pci usb_storage usbhid hid_generic "
    "psmouse qemu_fw_cfg nfnetlink"
).split()

PROGRAMS = {
    "dropbear-bin": ("usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/bin/dbclient"),
    "qemu-guest-agent": ("usr/sbin/qemu-ga",),
    "opendoas": ("usr/bin/doas",),
    "openssh-sftp-server": ("usr/lib/openssh/sftp-server",),
    "bash": ("bin/bash",),
    "libpam-modules": ("lib/x86_64-linux-gnu/security/pam_permit.so",),
}
PAM_ALLOW_ALL = "".join(f"{part} required pam_permit.so\n" for part in ("auth", "account", "password", "session"))
SETTINGS = {
    "etc/os-release": 'NAME="Tiny"\nID=tiny\nVERSION_ID="1"\nPRETTY_NAME="Tiny (busybox on a Debian 12 kernel)"\n',
    "etc/fstab": f"LABEL={LABEL} / ext4 rw,noatime 0 0\n",
    "etc/doas.conf": "permit nopass keepenv :sudo\npermit nopass keepenv root\n",
    "etc/pam.d/doas": PAM_ALLOW_ALL,
    "etc/acpi/PWRF/00000080": "#!/bin/sh\nexec /sbin/poweroff\n",
    "boot/grub/grub.cfg": GRUB_CONFIG,
}
GUEST_FILES = {
    "start": "usr/lib/guest/start",
    "stop": "usr/lib/guest/stop",
    "agent": "usr/lib/guest/agent",
    "hotplug": "usr/lib/guest/hotplug",
    "power-button": "usr/lib/guest/power-button",
    "inittab": "etc/inittab",
    "power": "usr/sbin/shutdown",
    "sudo": "usr/bin/sudo",
}


def _package_versions() -> list[str]:
    kernels = [packages.kernel_package(name) for name in (KERNEL, CLOUD_KERNEL)]
    return packages.versions([*kernels, *PACKAGES])


def _check_host() -> None:
    require([*disk.COMMANDS, "apt-get", "cpio", "dpkg-deb", "kmod", "lz4", "tar"], disk.FILES)


def _initramfs(stage: Path, scratch: Path, out: Path) -> None:
    root = scratch / "initramfs"
    for name in ("bin", "dev", "proc", "sys", "root"):
        (root / name).mkdir(parents=True)
    rootfs.install(root, "tiny", {"init": "init"})
    (root / "bin/busybox").write_bytes((stage / "bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for name in ("sh", "cat", "mount", "umount", "modprobe", "sleep", "switch_root"):
        (root / "bin" / name).symlink_to("busybox")
    kernel.modules(stage, root, DISK_MODULES)
    kernel.pack_initramfs(root, out)


def _root(stage: Path, root: Path) -> None:
    rootfs.skeleton(root, stage)
    rootfs.programs(root, stage, [path for paths in PROGRAMS.values() for path in paths])
    rootfs.write(root, SETTINGS)
    rootfs.install(root, "common", rootfs.COMMON_FILES)
    rootfs.install(root, "tiny", GUEST_FILES)
    for name in ("halt", "poweroff", "reboot"):
        (root / "usr/sbin" / name).unlink()
        (root / "usr/sbin" / name).symlink_to("shutdown")
    (root / "usr/sbin/init").symlink_to("../bin/busybox")
    (root / "usr/lib/sftp-server").symlink_to("openssh/sftp-server")
    (root / "etc/acpi/PWRF/00000080").chmod(0o755)
    (root / "usr/bin/doas").chmod(0o4755)
    (root / "data").mkdir()
    kernel.modules(stage, root, [*DISK_MODULES, *MODULES])


def _quick_kernel(generic: Path, cloud: Path) -> bytes:
    try:
        return vmlinuz.quick(generic.read_bytes(), cloud.read_bytes())
    except BuildError as error:
        progress(f"the guest will boot 2 s slower, with the kernel as Debian packs it: {error}")
        return generic.read_bytes()


def _build(scratch: Path) -> Path:
    stage, cloud, root = scratch / "packages", scratch / "cloud-kernel", scratch / "root"
    packages.unpack([packages.kernel_package(KERNEL), *PACKAGES], stage)
    packages.unpack([packages.kernel_package(CLOUD_KERNEL)], cloud)
    kernel.prepare(stage)
    progress("making the root file system")
    _root(stage, root)
    progress("packing the kernel")
    (root / "boot/vmlinuz").write_bytes(_quick_kernel(kernel.image(stage), kernel.image(cloud)))
    _initramfs(stage, scratch, root / "boot/initrd")
    progress("making the disk")
    image = scratch / "tiny.qcow2"
    disk.make(root, LABEL, SIZE_MIB, image, ext4_options="-J size=4")
    return image


GUEST = Guest(
    kind="tiny",
    suffix=".qcow2",
    sources=("tiny.py", "disk.py", "kernel.py", "rootfs.py", "vmlinuz.py", "files/common", "files/tiny"),
    packages=_package_versions,
    check_host=_check_host,
    build=_build,
)
