"""The container: busybox and dropbear as the root of a libvirt LXC domain, in a compressed tar."""

from pathlib import Path

from . import packages, rootfs
from .cache import Guest
from .tools import as_root, progress, require, run

PACKAGES = [
    "bash",
    "busybox-static",
    "dropbear-bin",
    "libc6",
    "libcrypt1",
    "libgmp10",
    "libtinfo6",
    "libtomcrypt1",
    "libtommath1",
    "openssh-sftp-server",
    "zlib1g",
]
PROGRAMS = (
    "usr/sbin/dropbear",
    "usr/bin/dropbearkey",
    "usr/bin/dbclient",
    "usr/lib/openssh/sftp-server",
    "bin/bash",
)
SETTINGS = {
    "etc/os-release": 'NAME="Tiny container"\nID=tiny-container\nVERSION_ID="1"\nPRETTY_NAME="Tiny container"\n',
}


def _package_versions() -> list[str]:
    return packages.versions(PACKAGES)


def _check_host() -> None:
    require(["apt-get", "dpkg-deb", "tar", "unshare", "zstd"], {})


def _root(stage: Path, root: Path) -> None:
    rootfs.skeleton(root, stage)
    rootfs.programs(root, stage, PROGRAMS)
    rootfs.write(root, SETTINGS)
    rootfs.install(root, "common", rootfs.COMMON_FILES)
    (root / "sbin").unlink()  # a directory of its own, so that sbin/init can be found without following links
    rootfs.install(root, "container", {"init": "sbin/init"})
    (root / "usr/lib/sftp-server").symlink_to("openssh/sftp-server")
    (root / "var/lib/cloud/seed/nocloud").mkdir(parents=True)


def _build(scratch: Path) -> Path:
    stage, root, archive = scratch / "packages", scratch / "root", scratch / "root.tar"
    packages.unpack(PACKAGES, stage)
    progress("making the root file system")
    _root(stage, root)
    words = ("tar", "-c", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-f", archive)
    names = sorted(path.name for path in root.iterdir())
    run(*as_root(*words, "-C", root, *names), doing="pack the root file system")
    packed = scratch / "root.tar.zst"
    run("zstd", "-q", "-12", "--rm", archive, "-o", packed, doing="compress the root file system")
    return packed


GUEST = Guest(
    kind="container",
    suffix=".tar.zst",
    sources=("container.py", "rootfs.py", "files/common", "files/container"),
    packages=_package_versions,
    check_host=_check_host,
    build=_build,
)
