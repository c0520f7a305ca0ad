"""Block devices of this machine: who uses one, and whether it holds anything.

libvirt asks blkid for known signatures only; data that no tool knows is data all the same.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from io import FileIO
from pathlib import Path

# The places where file systems, volume managers and partition tables keep what they cannot do without.
_HEAD_BYTES, _TAIL_BYTES, _BLOCK_BYTES = 4 << 20, 1 << 20, 1 << 16


def is_block(path: str) -> bool:
    """Tell whether the path is a block device."""
    try:
        return stat.S_ISBLK(Path(path).stat().st_mode)
    except OSError:
        return False


def names(path: str) -> list[str]:
    """Return what the device is called too: the node itself, and the links below /dev/disk and /dev/mapper to it."""
    real = os.path.realpath(path)
    links = (link for place in ("/dev/disk", "/dev/mapper") for link in Path(place).rglob("*") if link.is_symlink())
    return [real, *(str(link) for link in links if os.path.realpath(link) == real)]


def kernel_users(path: str) -> list[str]:
    """Return, in words, what the kernel itself uses the device or its partitions for; [] also where we may not look."""
    real = os.path.realpath(path)
    try:
        # The kernel gives it to one user alone: a mount, swap, a volume manager.
        os.close(os.open(real, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return [*_mounts(real), *_holders(real)] or ["the kernel (swap, a volume manager or another host name)"]
    return []


def _mounts(real: str) -> Iterator[str]:
    # Partitions of a name that ends in a digit have a p before their number.
    partition = re.compile(re.escape(real) + ("p" if real[-1].isdigit() else "") + r"\d+")
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        source, place = line.split(" ")[:2]
        device = os.path.realpath(source) if source.startswith("/") else ""
        if device == real or partition.fullmatch(device):
            yield f"{source}, mounted at {place}"


def _holders(real: str) -> Iterator[str]:
    with suppress(OSError):
        for entry in Path("/sys/class/block", Path(real).name, "holders").iterdir():
            yield f"/dev/{entry.name}"


def first_data(path: str) -> int | None:
    """Return where the device's first byte that is not zero stands, of its first 4 MiB and its last MiB; else None.

    None also where we may not read it: then only libvirt's own look remains.
    """
    try:
        with closing(FileIO(path)) as file:
            size = file.seek(0, os.SEEK_END)
            head = range(0, min(size, _HEAD_BYTES), _BLOCK_BYTES)
            tail = range(max(0, size - _TAIL_BYTES), size, _BLOCK_BYTES)
            found = (_data_at(file, offset) for offset in (*head, *tail))
            return next((at for at in found if at is not None), None)
    except PermissionError:
        return None


def _data_at(file: FileIO, offset: int) -> int | None:
    file.seek(offset)
    block = file.read(_BLOCK_BYTES) or b""
    return offset + len(block) - len(block.lstrip(b"\0")) if block.strip(b"\0") else None
