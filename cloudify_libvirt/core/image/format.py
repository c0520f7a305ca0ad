"""What a file is, by its own bytes: compression, tar, qcow2, raw.

QEMU's tools are not asked: they open what the header of a qcow2 image names, and an image from the
network may name any file of the host.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import zstandard

from cloudify_libvirt.core.errors import ImageFailed
from cloudify_libvirt.core.image import qcow2

CHUNK = 1 << 20
# What decoding may take: xz and zstd files choose the size of their window, 64 MiB at their highest usual levels.
_WINDOW_MAX = 128 << 20
_INPUT = 1 << 18
# zstandard has no limit for a piece of output: 2 KiB never become more than 64 MiB (a block of 128 KiB takes 4 bytes).
_ZST_INPUT = 1 << 11
_MAGIC = {b"\x1f\x8b\x08": "gz", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2"}
# What the standard library and zstandard raise for damaged data.
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

# What a boot sector cannot be, so that "raw" would only hide a mistake: offset, magic, name.
_FOREIGN = (
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"QED\0", "a QED image"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"<!DOCTYPE", "an HTML page"),
    (0, b"<!doctype", "an HTML page"),
    (0, b"<html", "an HTML page"),
)

# Bits of an entry of qcow2's tables. Source: docs/interop/qcow2.rst in QEMU's sources.
_QCOW2_OFFSET, _QCOW2_COMPRESSED = 0x00FF_FFFF_FFFF_FE00, 1 << 62
_TABLE_MAX = 4 << 20  # QCOW_MAX_L1_SIZE / 8


def compression(path: Path) -> str:
    """Return ``gz``, ``xz``, ``zst``, ``bz2``, or ``""`` for a file that is none of these."""
    with path.open("rb") as file:
        head = file.read(8)
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def detect_format(path: Path, *, expected: str = "") -> tuple[str, int]:
    """Return ``(format, virtual size in bytes)``; format is ``raw``, ``qcow2`` or ``tar``.

    With ``expected="raw"`` the content is not looked at: a guest can write a qcow2 header to its raw disk,
    and must not be believed. A tar (container root, maybe compressed) counts as large as its file.

    Raises:
        ImageFailed: not an image, not the ``expected`` format, or a qcow2 that names other files.
    """
    with path.open("rb") as file:
        head = file.read(qcow2.HEAD_BYTES)
    file_bytes = path.stat().st_size
    if not head:
        raise _unusable(path, "the file is empty", "Fetch or build it again.")
    if expected == "raw":
        return "raw", file_bytes
    found = _looks_like(path, head)
    if expected and found != expected:
        raise _unusable(path, f"it is {found}, not {expected}", f"Give the format {found}, or another image.")
    return found, _qcow2_size(path, head) if found == "qcow2" else file_bytes


def _looks_like(path: Path, head: bytes) -> str:
    if head.startswith(qcow2.MAGIC):
        return "qcow2"
    if is_tar(path):
        return "tar"
    if compression(path):
        raise _unusable(path, "it is compressed", "Decompress it, or let the image cache fetch it.")
    for offset, magic, name in _FOREIGN:
        if head.startswith(magic, offset):
            raise _unusable(path, f"it is {name}", "Give a raw or qcow2 image (qemu-img convert -O qcow2).")
    return "raw"


def _qcow2_size(path: Path, head: bytes) -> int:
    header = qcow2.read(head)
    if header is None:
        raise _unusable(path, "its qcow2 header is cut short", "Fetch it again.")
    remedy = "Make it stand alone: qemu-img convert -O qcow2 OLD NEW."
    if header.version not in (2, 3):
        raise _unusable(
            path, f"it is of qcow version {header.version}", "Convert it: qemu-img convert -O qcow2 OLD NEW."
        )
    if header.backing:
        raise _unusable(path, "it has a backing file, which could be any file of the host", remedy)
    if header.features & qcow2.DATA_FILE:
        raise _unusable(path, "it has an external data file, which could be any file of the host", remedy)
    if header.features & qcow2.CORRUPT:
        raise _unusable(path, "it is marked as corrupt", "Repair it: qemu-img check -r all FILE.")
    if _last_cluster(path, head, extended=bool(header.features & qcow2.EXTENDED_L2)) >= path.stat().st_size:
        raise _unusable(path, "it is cut short: some of its content lies past its end", "Fetch it again.")
    return header.size


def _last_cluster(path: Path, head: bytes, *, extended: bool) -> int:
    """Return the highest place in the file that the tables name; QEMU reads zeros where the file ends before it."""
    cluster_bits, l1_entries, l1_offset = struct.unpack_from(">I12xIQ", head, 20)
    if not 9 <= cluster_bits <= 21:
        raise _unusable(path, f"its qcow2 header says 2^{cluster_bits} bytes a cluster", "Fetch it again.")
    # A compressed cluster's entry keeps its length in the bits above the place.
    packed_mask = (1 << (62 - (cluster_bits - 8))) - 1
    last: int = l1_offset
    with path.open("rb") as file:
        # A set: a hostile table may name one cluster a million times.
        for l2_offset in {entry & _QCOW2_OFFSET for entry in _table(file, l1_offset, l1_entries)} - {0}:
            clusters = _table(file, l2_offset, (1 << cluster_bits) // 8)[:: 2 if extended else 1]
            places = (e & packed_mask if e & _QCOW2_COMPRESSED else e & _QCOW2_OFFSET for e in clusters)
            last = max(last, l2_offset, max(places, default=0))
    return last


def _table(file: IO[bytes], offset: int, entries: int) -> array[int]:
    file.seek(offset)
    data = file.read(min(entries, _TABLE_MAX) * 8)
    table = array("Q", data[: len(data) // 8 * 8])
    if sys.byteorder == "little":
        table.byteswap()
    return table


def is_tar(path: Path) -> bool:
    """Tell whether the file is a tar archive, plain or inside a compression."""
    head = next(decompressed(path), b"")
    return head[257:262] == b"ustar"


class _Pieces(io.RawIOBase):
    """Pieces as a file to read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def open_stream(path: Path) -> IO[bytes]:
    """Open the file for reading without its compression, if it has one; reading raises as ``decompressed`` does."""
    return io.BufferedReader(_Pieces(decompressed(path)), CHUNK)


def decompressed(path: Path) -> Iterator[bytes]:
    """Yield the content without its compression, in bounded pieces.

    Raises:
        ImageFailed: the compressed data is damaged, or ends too early.
    """
    try:
        kind = compression(path)
        yield from _gathered(_decoded(path, kind)) if kind else _plain(path)
    except _DAMAGED as error:
        if "memory" in str(error).lower():
            reason = f"its decoding takes more than {_WINDOW_MAX >> 20} MiB of memory"
            raise _unusable(path, reason, "Compress it with a smaller window.") from error
        raise _damaged(path) from error
    except OSError as error:
        if error.errno is None:  # bz2 reports damage so
            raise _damaged(path) from error
        raise


class _Decoder(Protocol):
    """What bz2 and lzma have; ``eof`` is the end of one of a file's streams."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decoder in the form of the others; it checks length and CRC."""

    def __init__(self) -> None:
        self._zlib, self.needs_input = zlib.decompressobj(wbits=31), True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length and not self._zlib.unconsumed_tail
        return piece


class _Unzst:
    # Not stream_reader: it takes the end of a cut file for the end of the data.
    needs_input = True

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX).decompressobj()

    @property
    def eof(self) -> bool:
        return self._zstd.eof

    @property
    def unused_data(self) -> bytes:
        return self._zstd.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:  # noqa: ARG002
        return self._zstd.decompress(data)


def _unxz() -> _Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_WINDOW_MAX)


_DECODERS: dict[str, Callable[[], _Decoder]] = {"gz": _Gunzip, "bz2": bz2.BZ2Decompressor, "xz": _unxz, "zst": _Unzst}


def _decoded(path: Path, kind: str) -> Iterator[bytes]:
    """Yield the content of all streams of the file; zeros after a stream are padding."""
    size = _ZST_INPUT if kind == "zst" else _INPUT
    with path.open("rb") as file:
        data = file.read(size)
        while data:
            decoder = _DECODERS[kind]()
            while not decoder.eof:
                data = data or (file.read(size) if decoder.needs_input else b"")
                if decoder.needs_input and not data:
                    raise EOFError("the last stream is not complete")
                piece, data = decoder.decompress(data, CHUNK), b""
                if piece:
                    yield piece
            data = decoder.unused_data.lstrip(b"\0")
            while not data and (more := file.read(size)):
                data = more.lstrip(b"\0")


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces that are worth a step of work each."""
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) >= _INPUT:
            yield bytes(found)
            found.clear()
    if found:
        yield bytes(found)


def _plain(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def _unusable(path: Path, reason: str, remedy: str) -> ImageFailed:
    return ImageFailed("use", f"the image {path}", reason, remedy)


def _damaged(path: Path) -> ImageFailed:
    return ImageFailed("decompress", str(path), "the compressed data is damaged or ends too early", "Fetch it again.")
