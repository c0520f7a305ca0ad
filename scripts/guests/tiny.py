"""The tiny guest: Debian's kernel, busybox, dropbear and the QEMU guest agent on an ext4 disk."""

from pathlib import Path

from . import boot, disk, packages, rootfs
from .cache import Guest
from .tools import progress, require

PACKAGES = [
    "bash",
    "busybox-static",
    "doas",
    "dropbear-bin",
    "libaudit1",
    "libc6",
    "libcap-ng0",
    "libcrypt1",
    "libglib2.0-0",
    "libnuma1",
    "libpam-modules",
    "libpam0g",
    "libpcre2-8-0",
    "libtinfo6",
    "libtomcrypt1",
    "libtommath1",
    "libudev1",
    "liburing2",
    "libgmp10",
    "opendoas",
    "openssh-sftp-server",
    "qemu-guest-agent",
    "zlib1g",
]

LABEL = "tinyroot"
SIZE_MIB = 128
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
    "boot/grub/grub.cfg": boot.grub_config(),
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
    return packages.versions([*boot.kernel_packages(), *PACKAGES])


def _check_host() -> None:
    require([*disk.COMMANDS, *boot.COMMANDS, "apt-get", "dpkg-deb", "tar"], disk.FILES)


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


def _build(scratch: Path) -> Path:
    stage, root = scratch / "packages", scratch / "root"
    packages.unpack(PACKAGES, stage)
    progress("making the root file system")
    _root(stage, root)
    boot.install(root, scratch / "kernel")
    progress("making the disk")
    image = scratch / "tiny.qcow2"
    disk.make(root, LABEL, SIZE_MIB, image, ext4_options="-J size=4")
    return image


GUEST = Guest(
    kind="tiny",
    suffix=".qcow2",
    sources=("tiny.py", "rootfs.py", *boot.SOURCES, "files/common", "files/tiny"),
    packages=_package_versions,
    check_host=_check_host,
    build=_build,
)
