"""Parts of a small root file system: busybox, programs with their libraries, accounts."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from .packages import merged_usr
from .tools import BuildError, run

FILES = Path(__file__).resolve().parent / "files"
DIRECTORIES = (
    "boot dev etc/dropbear home mnt proc root/.ssh run srv sys tmp usr/lib/guest var/lib/cloud var/log var/tmp"
)
# busybox has these, and ours or the real ones stand in their place
NOT_BUSYBOX = {"busybox", "init", "chpasswd", "shutdown", "bash"}
SYSTEM_BINARIES = {
    "acpid",
    "halt",
    "ip",
    "modprobe",
    "insmod",
    "poweroff",
    "reboot",
    "switch_root",
    "udhcpc",
    "hwclock",
}
LIBRARY_LINE = re.compile(r"(?:=> |^\s+)(/\S+) \(0x")

ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nsudo:x:27:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/shells": "/bin/sh\n/bin/bash\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "",
    "etc/profile": "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPS1='\\h:\\w\\$ '\n",
}
COMMON_FILES = {
    "lib.sh": "usr/lib/guest/lib.sh",
    "seed.sh": "usr/lib/guest/seed.sh",
    "network.sh": "usr/lib/guest/network.sh",
    "yaml.awk": "usr/lib/guest/yaml.awk",
    "udhcpc.sh": "usr/lib/guest/udhcpc.sh",
    "ssh-server": "usr/lib/guest/ssh-server",
    "chpasswd": "usr/sbin/chpasswd",
    "cloud-init": "usr/bin/cloud-init",
}


def skeleton(root: Path, stage: Path) -> None:
    """Make directories, busybox from the unpacked packages with all its names, and the accounts."""
    merged_usr(root)
    for name in DIRECTORIES.split():
        (root / name).mkdir(parents=True, exist_ok=True)
    busybox = root / "usr/bin/busybox"
    shutil.copy(stage / "bin/busybox", busybox)
    for name in run(busybox, "--list", doing="ask busybox for its names").decode().split():
        if name in SYSTEM_BINARIES:
            (root / "usr/sbin" / name).symlink_to("../bin/busybox")
        elif name not in NOT_BUSYBOX:
            (root / "usr/bin" / name).symlink_to("busybox")
    write(root, ACCOUNTS)
    for name, mode in {
        "etc/shadow": 0o600,
        "root": 0o700,
        "root/.ssh": 0o700,
        "tmp": 0o1777,
        "var/tmp": 0o1777,
    }.items():
        (root / name).chmod(mode)


def write(root: Path, files: dict[str, str]) -> None:
    """Write texts to paths below the root."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def install(root: Path, kind: str, places: dict[str, str]) -> None:
    """Copy guest files of files/KIND to the places named, with their modes."""
    for name, place in places.items():
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():
            target.unlink()
        shutil.copy(FILES / kind / name, target)
        target.chmod(0o755 if os.access(FILES / kind / name, os.X_OK) else 0o644)


def programs(root: Path, stage: Path, names: Iterable[str]) -> None:
    """Copy programs and the libraries they are linked with from the unpacked packages."""
    for name in names:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink():
            target.unlink()
        shutil.copy(stage / name, target)
        for library in _libraries(stage, stage / name):
            place = root / library.relative_to(stage)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)


def _libraries(stage: Path, program: Path) -> list[Path]:
    """Ask the loader of the unpacked libc, searching the unpacked packages only."""
    loader = stage / "lib64/ld-linux-x86-64.so.2"
    directories = ":".join(str(stage / place / "x86_64-linux-gnu") for place in ("usr/lib", "lib"))
    words = (loader, "--inhibit-cache", "--library-path", directories, "--list", program)
    listed = run(*words, doing=f"find the libraries of {program.relative_to(stage)}").decode()
    found = [Path(path) for path in LIBRARY_LINE.findall(listed)]
    foreign = [str(path) for path in found if not path.is_relative_to(stage)]
    if foreign or "not found" in listed:
        raise BuildError(f"{program.name} needs libraries of packages that are not on the list:\n{listed}")
    return [*found, stage / "lib64/ld-linux-x86-64.so.2"]
