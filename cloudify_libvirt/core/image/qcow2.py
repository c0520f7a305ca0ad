"""Which other files the header of a qcow2 image names, read from its first bytes and from nothing else.

Source: docs/interop/qcow2.rst in QEMU's sources
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"QFI\xfb"
# Bits of incompatible_features, at offset 72 since version 3.
CORRUPT, DATA_FILE, EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
# As far as a header is looked at: what qemu-img writes is well within.
HEAD_BYTES = 4096
# What stands for a name that lies outside of these bytes.
UNSEEN = "?"

_HEADER = struct.Struct(">4sIQIIQ")  # magic, version, backing offset, backing size, cluster bits, size
_EXTENSION = struct.Struct(">II")  # type, length of its data, which is padded to 8 bytes
_BACKING_FORMAT = 0xE2792ACA


@dataclass(frozen=True)
class Header:
    """What a header says; ``size`` is what a guest sees, in bytes, and ``backing`` "" without a file below."""

    version: int
    size: int
    features: int
    backing: str
    backing_format: str


def read(head: bytes) -> Header | None:
    """Return what the first bytes of an image say; None where they are too few for a header, or none of qcow2."""
    if not head.startswith(MAGIC) or len(head) < 72:
        return None
    _, version, offset, length, _, size = _HEADER.unpack_from(head)
    features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 and len(head) >= 80 else 0
    name = head[offset : offset + length] if offset else b""
    backing = (name.decode("utf-8", "replace") if length and len(name) == length else UNSEEN) if offset else ""
    format_ = dict(_extensions(head, version)).get(_BACKING_FORMAT, b"")
    return Header(version, size, features, backing, format_.decode("ascii", "replace"))


def _extensions(head: bytes, version: int) -> Iterator[tuple[int, bytes]]:
    place = struct.unpack_from(">I", head, 100)[0] if version >= 3 and len(head) >= 104 else 72
    while place + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, place)
        place += _EXTENSION.size
        if not kind:
            return
        yield kind, head[place : place + length]
        place += -(-length // 8) * 8
