"""Debian 12 as people know it: systemd, cloud-init, OpenSSH and the QEMU guest agent on a disk that grows.

Nothing here needs root: mmdebstrap then works in a user namespace, and the disk is written in there, too, by this
module as a hook, because the files' owners exist only inside.
"""

import shlex
import shutil
import sys
from pathlib import Path

from . import boot, disk, packages, rootfs
from .cache import Guest
from .tools import BuildError, progress, require, run

SUITE = "bookworm"
PACKAGES = [
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "udev",
    "dbus",
    "libpam-systemd",
    "cloud-init",
    "cloud-guest-utils",
    "openssh-server",
    "qemu-guest-agent",
    "iproute2",
    "iputils-ping",
    "netbase",
    "sudo",
    "e2fsprogs",
    "fdisk",
    "python3",
    "ca-certificates",
    "procps",
    "kmod",
    "less",
]
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LABEL = "debroot"
SIZE_MIB = 2048
UNUSED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt/archives",
    "var/lib/apt/lists",
)

# Without a machine-id systemd takes every boot for the first one and presets all units: 15 s under TCG.
MACHINE_ID = "0123456789abcdef0123456789abcdef\n"
ENABLED = ["systemd-networkd", "systemd-resolved", "ssh", "serial-getty@ttyS0"]
# Each of these costs time at boot, and none is needed to test on.
MASKED = [
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "kmod-static-nodes.service",
    "modprobe@.service",
    "systemd-modules-load.service",
    "systemd-network-generator.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-pstore.service",
    "systemd-journal-flush.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-repart.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_reap.service",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "getty@tty1.service",
    "cloud-init-hotplugd.socket",
]
# guest.drivers=all: the CD-ROM with the seed has to be there when cloud-init looks for it, early.
SETTINGS = {
    "etc/machine-id": MACHINE_ID,
    "etc/hostname": "debian\n",
    "etc/cloud/ds-identify.cfg": "policy: enabled\n",
    "boot/grub/grub.cfg": boot.grub_config("rw net.ifnames=0 guest.drivers=all"),
}


def _package_versions() -> list[str]:
    return [*packages.versions_with_dependencies(PACKAGES), *packages.versions(boot.kernel_packages())]


def _check_host() -> None:
    require(
        [*disk.COMMANDS, *boot.COMMANDS, "apt-get", "dpkg-deb", "tar", "mmdebstrap"],
        disk.FILES | {KEYRING: "debian-archive-keyring"},
    )


def _build(scratch: Path) -> Path:
    sources = packages.debian_sources()
    if not any(f" {SUITE} " in line for line in sources):
        raise BuildError(f"apt on this machine has no {SUITE} (Debian 12): add it to {packages.APT_CONFIGURATION}")
    packages.merged_usr(scratch / "boot-files")
    boot.install(scratch / "boot-files", scratch / "kernel")
    scratch.chmod(0o777)  # in a user namespace the hook is somebody else
    raw = scratch / "debian.raw"
    progress("installing Debian: takes minutes")
    _mmdebstrap(sources, _hook(scratch / "boot-files", raw))
    image = scratch / "debian.qcow2"
    disk.convert(raw, image)
    return image


def _mmdebstrap(sources: list[str], hook: str) -> None:
    words = ["mmdebstrap", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(PACKAGES)}"]
    words += ["--aptopt=APT::Install-Recommends false"]
    words += [f"--dpkgopt=path-exclude=/{place}/*" for place in UNUSED if place.startswith("usr/share")]
    words += ["--dpkgopt=path-include=/usr/share/locale/locale.alias", f"--customize-hook={hook}"]
    run(*words, SUITE, "/dev/null", *sources, doing="install Debian 12 into a directory")


# mmdebstrap has proc and sys mounted in the new system while hooks run; they must not get onto the disk.
WITHOUT_MOUNTS = 'umount --quiet --recursive --lazy "$0/proc" "$0/sys" "$0/dev"; exec "$@"'
HOOK = """unshare --mount --propagation private sh -c {without_mounts} "$1" \
env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={modules} {python} -m guests.debian "$1" {boot_files} {raw}"""


def _hook(boot_files: Path, raw: Path) -> str:
    modules = Path(__file__).resolve().parent.parent
    words = {"without_mounts": WITHOUT_MOUNTS, "modules": modules, "python": sys.executable}
    words |= {"boot_files": boot_files, "raw": raw}
    return HOOK.format(**{name: shlex.quote(str(word)) for name, word in words.items()})


def finish(root: Path, boot_files: Path, raw: Path) -> None:
    """Configure the installed system and write it to a disk; called inside mmdebstrap's namespace."""
    for place in UNUSED:
        for path in (root / place).glob("*"):
            if path.name != "locale.alias":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    run(
        "cp",
        "-r",
        "--no-preserve=ownership",
        *(boot_files / name for name in ("boot", "usr")),
        root,
        doing="add the kernel",
    )
    shutil.copytree(rootfs.FILES / "debian", root, dirs_exist_ok=True)
    rootfs.write(root, SETTINGS)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    run("chroot", root, "systemctl", "enable", *ENABLED, doing="enable services")
    run("chroot", root, "systemctl", "mask", *MASKED, doing="mask services")
    disk.make_raw(root, LABEL, SIZE_MIB, raw)
    raw.chmod(0o666)


GUEST = Guest(
    kind="debian",
    suffix=".qcow2",
    sources=("debian.py", *boot.SOURCES, "files/debian"),
    packages=_package_versions,
    check_host=_check_host,
    build=_build,
)

if __name__ == "__main__":
    finish(*map(Path, sys.argv[1:4]))
