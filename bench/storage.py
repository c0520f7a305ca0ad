"""Volumes: an upload that keeps holes against one that does not, and what the guard of a deletion costs.

.venv/bin/python -m bench.storage ROUNDS    inside a lab
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt

from bench.figures import Row, median, ms, s, table
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage.bases import Claim, Wish
from cloudify_libvirt.core.volume import Volume

URI = "qemu:///system"
DIRECTORY = Path("/var/lib/libvirt/images/bench-storage")
MIB = 1024**2
IMAGE_BYTES, DATA_BYTES, MOST_ALLOCATED = 1024 * MIB, 2 * MIB, 8 * MIB
DOMAINS = 200
_DOMAIN = (
    "<domain type='qemu'><name>bench-{number}</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os>"
    "<devices><disk type='file'><source file='/srv/{number}.qcow2'/><target dev='vda'/></disk></devices></domain>"
)


@contextmanager
def bench_pool() -> Iterator[Pool]:
    """Bring a pool of our own."""
    connection = connect(URI).connection
    xml = f"<pool type='dir'><name>bench-storage</name><target><path>{DIRECTORY}</path></target></pool>"
    handle = connection.storagePoolDefineXML(xml)
    handle.build()
    handle.create()
    try:
        yield Pool(connect(URI), handle)
    finally:
        handle.destroy()
        handle.undefine()
        shutil.rmtree(DIRECTORY)


def _made(pool: Pool, name: str, size_bytes: int) -> Volume:
    return storage.empty(pool, Wish(name, size_bytes, "raw"), Claim(False, lambda: None))


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _dense(volume: Volume, source: Path) -> None:
    """Upload as the binding's own example does: everything is sent."""
    stream = connect(URI).connection.newStream()
    volume.handle.upload(stream, 0, IMAGE_BYTES, 0)
    with source.open("rb") as file:
        while chunk := file.read(MIB):
            sent = 0
            while sent < len(chunk):
                sent += stream.send(chunk[sent:])
    stream.finish()


def uploads(pool: Pool, rounds: int) -> tuple[list[float], list[float], int]:
    """Return the seconds of each sparse and each dense upload, and the most bytes that a sparse one took."""
    sparse, dense, allocated = [], [], 0
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "image.raw"
        with source.open("wb") as file:
            file.seek(IMAGE_BYTES // 2)
            file.write(os.urandom(DATA_BYTES))
            file.truncate(IMAGE_BYTES)
        for number in range(rounds):
            first, second = (_made(pool, f"{kind}-{number}", IMAGE_BYTES) for kind in ("sparse", "dense"))
            sparse.append(_seconds(lambda volume=first: volume.upload(source)))
            dense.append(_seconds(lambda volume=second: _dense(volume, source)))
            allocated = max(allocated, Path(first.path).stat().st_blocks * 512)
            for volume in (first, second):
                volume.delete()
    return sparse, dense, allocated


def deletions(pool: Pool, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of guarded and of plain deletions, with many domains defined."""
    connection = connect(URI).connection
    domains = [connection.defineXML(_DOMAIN.format(number=number)) for number in range(DOMAINS)]
    try:
        guarded = [_seconds(_made(pool, "one", MIB).delete) for _ in range(max(rounds, 3))]
        plain = [_seconds(lambda: _made(pool, "two", MIB).handle.delete(0)) for _ in range(max(rounds, 3))]
    finally:
        for domain in domains:
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    return guarded, plain


def measure(rounds: int) -> list[Row]:
    """Measure, and return the rows."""
    with bench_pool() as pool:
        sparse, dense, allocated = uploads(pool, rounds)
        guarded, plain = deletions(pool, rounds)
    return [
        Row("volume: upload of 1 GiB with 2 MiB of data", ms(median(sparse)), f"everything sent: {s(median(dense))}",
            median(sparse) / median(dense), 0.01),
        Row("volume: allocated after it", f"{allocated / MIB:.1f} MiB", "8 MiB", allocated / MOST_ALLOCATED, 1),
        Row(f"volume: deletion with {DOMAINS} domains looked at", ms(median(guarded)),
            f"nobody looked at, made besides: {ms(median(plain))}"),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(table(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 3)))
