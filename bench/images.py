"""A 500 MiB image from a web server into the cache, against curl, tee, sha256sum, a decompressor and qemu-img.

Needs no libvirt: .venv/bin/python -m bench.images
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Row, median, s, table

SIZE_MIB = 500
BOUND, MEMORY_BOUND_MIB = 1.2, 100.0
PACKERS = {"": [], "gz": ["gzip", "-1"], "xz": ["xz", "-0", "-T2"], "zst": ["zstd", "-q", "-3"]}
UNPACKERS = {"gz": "gzip -dc", "xz": "xz -dc", "zst": "zstd -qdc"}
OURS = """
import sys
from pathlib import Path
from cloudify_libvirt.core.image.cache import ImageCache
ImageCache(Path(sys.argv[1])).fetch(sys.argv[2], checksum=sys.argv[3])
"""


def make_image(path: Path) -> None:
    """Write an image as they are: part of it random, part of it text, part of it zeros."""
    with path.open("wb") as file:
        for number in range(SIZE_MIB):
            noise = hashlib.shake_256(str(number).encode()).digest(1 << 18)
            text = b"".join(b"line %d of file %d\n" % (line, number) for line in range(1 << 15))[: 1 << 19]
            file.write(noise + text + bytes((1 << 20) - len(noise) - len(text)))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def _serve(directory: Path, port: multiprocessing.Queue[int]) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    port.put(server.server_address[1])
    server.serve_forever()


@contextmanager
def web(directory: Path) -> Iterator[str]:
    """Serve a directory from a process of its own."""
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    process = multiprocessing.Process(target=_serve, args=(directory, port), daemon=True)
    process.start()
    yield f"http://127.0.0.1:{port.get(timeout=10)}"
    process.terminate()
    process.join()


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; return its seconds and the most MiB of memory that one of its processes took."""
    begin = time.monotonic()
    pid = os.posix_spawn(shutil.which(command[0]) or command[0], command, {**os.environ, **environment})
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed with {status}")
    return time.monotonic() - begin, usage.ru_maxrss / 1024


def script(packing: str, *, convert: bool) -> str:
    """Return the shell's way; ``convert`` ends it with a copy by qemu-img, which leaves holes."""
    lines = ["set -eu", 'sum=$(curl -sf "$URL" | tee "$DIR/in" | sha256sum)', '[ "${sum%% *}" = "$SUM" ]']
    last = "in"
    if packing:
        lines.append(f'{UNPACKERS[packing]} < "$DIR/in" > "$DIR/out"')
        last = "out"
    if convert:
        lines.append(f'qemu-img convert -f raw -O raw "$DIR/{last}" "$DIR/disk"')
    return "\n".join(lines)


def once(url: str, checksum: str, packing: str, directory: Path) -> dict[str, float]:
    """Do it each way, and return the seconds, and our memory in MiB."""
    found: dict[str, float] = {}
    for name in ("shell", "shell, qemu-img", "ours"):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        environment = {"URL": url, "SUM": checksum, "DIR": str(directory), "NO_PROXY": "127.0.0.1"}
        command = ["sh", "-c", script(packing, convert=name != "shell")]
        if name == "ours":
            command = [sys.executable, "-c", OURS, str(directory / "cache"), url, f"sha256:{checksum}"]
        os.sync()
        found[name], found["memory"] = run(command, environment)
    return found


def rows(packing: str, runs: list[dict[str, float]]) -> list[Row]:
    """Return the table's lines for one packing."""
    what = f"{SIZE_MIB} MiB image, {packing or 'not packed'}"
    ours = median([run["ours"] for run in runs])
    memory = max(run["memory"] for run in runs)
    ways = {"shell": "curl, tee, sha256sum" + (f", {UNPACKERS[packing].split()[0]} -d" if packing else "")}
    ways["shell, qemu-img"] = f"{ways['shell']}, qemu-img convert"
    found = []
    for name, way in ways.items():
        theirs = median([run[name] for run in runs])
        # The bound is that of the whole way; without the copy it is for information.
        bound = BOUND if name == "shell, qemu-img" else None
        found.append(Row(f"{what}: fetched, verified, published", s(ours), f"{way}: {s(theirs)}", ours / theirs, bound))
    text = f"{memory:.0f} MiB"
    most = f"{MEMORY_BOUND_MIB:.0f} MiB"
    return [*found, Row(f"{what}: most memory", text, most, memory / MEMORY_BOUND_MIB, 1.0)]


def measure(rounds: int) -> list[Row]:
    """Measure every packing, taking turns."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory, found = Path(name), list[Row]()
        (directory / "www").mkdir()
        make_image(directory / "www" / "disk")
        with web(directory / "www") as url:
            for packing, command in PACKERS.items():
                path = directory / "www" / f"disk.{packing or 'raw'}"
                if packing:
                    with path.open("wb") as file:
                        subprocess.run([*command, "-c", directory / "www" / "disk"], stdout=file, check=True)
                else:
                    path = directory / "www" / "disk"
                with path.open("rb") as packed:
                    checksum = hashlib.file_digest(packed, "sha256").hexdigest()
                link = f"{url}/{path.name}"
                runs = [once(link, checksum, packing, directory / "work") for _ in range(rounds)]
                found += rows(packing, runs)
        return found


def main() -> int:
    """Measure; the exit code tells whether all bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    found = measure(parser.parse_args().rounds)
    print(table(found))
    return 0 if all(row.holds for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
