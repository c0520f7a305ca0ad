"""Volume contents through libvirt's streams: works for remote hosts, keeps holes, in bounded memory.

Source: https://libvirt.org/html/libvirt-libvirt-stream.html
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, libvirt_call, quiet
from cloudify_libvirt.core.session import Session

# libvirt moves at most 32 MiB in one send; 1 MiB is where its throughput levels off.
CHUNK_BYTES = 1024 * 1024
# As much of the end of a content proves that all of it was written.
PROOF_BYTES = 4096


def upload(session: Session, volume: Any, source: Path | bytes, target: str) -> None:
    """Write a file or bytes over the volume's content; the stream is aborted when anything fails."""
    data: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with data:
        size = data.seek(0, os.SEEK_END)
        with _writing(session, volume, size, target) as writing:
            _send(writing, data, size, target)


def write(session: Session, volume: Any, chunks: Iterable[bytes], length: int, target: str) -> None:
    """Write ``length`` bytes that come in chunks over the volume's content."""
    with _writing(session, volume, length, target) as writing:
        for chunk in chunks:
            writing.data(chunk)


def zero(session: Session, volume: Any, length: int, target: str, offset: int = 0) -> None:
    """Write zeros over ``length`` bytes from ``offset``: real ones, no hole."""
    with _writing(session, volume, length, target, offset) as writing:
        for done in range(0, length, CHUNK_BYTES):
            writing.data(bytes(min(CHUNK_BYTES, length - done)))


def wipe(session: Session, volume: Any, target: str) -> None:
    """Overwrite with zeros what was ever written; holes stay holes.

    libvirt's own wipe cuts a file with holes to nothing, and leaves its blocks on the disk as they are.
    Source: libvirt, storage_util.c, storageBackendVolZeroSparseFileLocal
    """
    written: list[tuple[int, int]] = []
    for offset, length, data in received(session, volume, target):
        if data is None:
            continue
        if written and sum(written[-1]) == offset:
            offset, length = written[-1][0], written.pop()[1] + length
        written.append((offset, length))
    for offset, length in written:
        zero(session, volume, length, target, offset)


def download(session: Session, volume: Any, destination: IO[bytes], target: str) -> int:
    """Write the volume's content to an empty file, holes kept, in bounded memory; return its length in bytes."""
    end = 0
    for offset, length, data in received(session, volume, target):
        end = offset + length
        if data is not None:
            destination.seek(offset)
            destination.write(data)
    destination.truncate(end)
    return end


def received(session: Session, volume: Any, target: str) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield (offset, length, data) over the volume's content, at most a chunk at a time; a hole has no data."""
    with libvirt_call("read from", target), ExitStack() as undo:
        stream = session.connection.newStream(0)
        undo.callback(quiet, stream.abort)
        volume.download(stream, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        offset = 0
        while got := stream.recvFlags(CHUNK_BYTES, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE):
            # -3: here is a hole; the binding has no name for it.
            data = got if isinstance(got, bytes) else None
            length = len(got) if data is not None else stream.recvHole()
            yield offset, length, data
            offset += length
        stream.finish()
        undo.pop_all()


@contextmanager
def _writing(session: Session, volume: Any, length: int, target: str, offset: int = 0) -> Iterator[Writing]:
    with libvirt_call("write to", target, "Is there room in the pool?"), ExitStack() as undo:
        stream = session.connection.newStream(0)
        undo.callback(quiet, stream.abort)
        volume.upload(stream, offset, length, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
        writing = Writing(stream, offset)
        yield writing
        stream.finish()
        undo.pop_all()
    writing.prove(session, volume, target)


class Writing:
    """What goes into a volume, one piece after the other.

    libvirt writes in a thread of its own, which ends at its first error, such as of a full disk, and tells of that at
    the next piece: of an error at the last ones nobody hears. So the last block must be there when all is written.
    """

    def __init__(self, stream: Any, offset: int) -> None:
        self._stream, self._offset = stream, offset
        self.proof = offset, b""

    def data(self, chunk: bytes) -> None:
        """Send content."""
        if not chunk:
            return
        view = memoryview(chunk)
        while view:
            view = view[self._stream.send(bytes(view)) :]
        # Zeros are also where nothing was written: they prove something only where there is nothing else.
        said = chunk.rstrip(b"\0")
        if said or not self.proof[1].rstrip(b"\0"):
            end = (said or chunk)[-PROOF_BYTES:]
            self.proof = self._offset + len(said or chunk) - len(end), end
        self._offset += len(chunk)

    def hole(self, length: int) -> None:
        """Send a hole."""
        self._stream.sendHole(length, 0)
        self._offset += length

    def prove(self, session: Session, volume: Any, target: str) -> None:
        """Read the last block again.

        Raises:
            CoreError: it is not there.
        """
        offset, block = self.proof
        if block and read(session, volume, offset, len(block), target) != block:
            reason = "the end of it is missing, though libvirt told of no error: most likely No space left on device"
            raise CoreError("write to", target, reason, "Free some space there.")


def _send(writing: Writing, data: BinaryIO, size: int, target: str) -> None:
    for offset, length, is_hole in extents(data, size):
        if is_hole:
            writing.hole(length)
            continue
        data.seek(offset)
        left = length
        while left:
            chunk = data.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise CoreError("upload to", target, "the source became shorter meanwhile", "Try again.")
            writing.data(chunk)
            left -= len(chunk)


def extents(data: BinaryIO, size: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (offset, length, is a hole) over the source; one data extent where it cannot tell."""
    try:
        descriptor = data.fileno()
    except io.UnsupportedOperation:
        yield 0, size, False
        return
    offset = 0
    while offset < size:
        start = _seek(descriptor, offset, os.SEEK_DATA, size)
        if start > offset:
            yield offset, start - offset, True
        if start >= size:
            return
        offset = _seek(descriptor, start, os.SEEK_HOLE, size)
        yield start, offset - start, False


def _seek(descriptor: int, offset: int, whence: int, size: int) -> int:
    try:
        return min(os.lseek(descriptor, offset, whence), size)
    except OSError:
        # ENXIO: no data behind the offset.
        return size


def read(session: Session, volume: Any, offset: int, length: int, target: str) -> bytes:
    """Return a part of a volume's content; shorter at its end, empty behind it."""
    with libvirt_call("read from", target):
        stream = session.connection.newStream(0)
        with ExitStack() as undo:
            undo.callback(quiet, stream.abort)
            volume.download(stream, offset, length, 0)
            data = bytearray()
            while len(data) < length and (chunk := stream.recv(length - len(data))):
                data += chunk
            stream.finish()
            undo.pop_all()
    return bytes(data)


def last_block(path: Path, block_bytes: int) -> tuple[int, bytes]:
    """Return offset and content of a file's last block that is not all zeros; (0, b"") when there is none."""
    with path.open("rb") as data:
        size = data.seek(0, os.SEEK_END)
        for start, length, is_hole in reversed(list(extents(data, size))):
            offset = start + length
            while not is_hole and offset > start:
                offset = max(start, offset - block_bytes)
                data.seek(offset)
                block = data.read(min(block_bytes, start + length - offset))
                if block.strip(b"\0"):
                    return offset, block
    return 0, b""
