"""The cache: names by content of what goes in, checked files, one builder at a time.

DIR/tiny-0123456789abcdef.qcow2         the guest
DIR/tiny-0123456789abcdef.qcow2.json    its size, time and sha256, the packages used
DIR/tiny.current.json                   the last answer, with all that it depends on
DIR/tiny.lock                           held while building
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .packages import apt_state
from .tools import BuildError, progress

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Guest:
    """One kind of guest: what goes in and how it is made."""

    kind: str
    suffix: str
    sources: Sequence[str]  # modules and directories in scripts/guests that only some kinds use
    packages: Callable[[], list[str]]  # file names and hashes of the Debian packages
    check_host: Callable[[], None]
    build: Callable[[Path], Path]  # given an empty directory, returns the finished file in it


COMMON_SOURCES = ("cli.py", "cache.py", "packages.py", "tools.py")


def default_directory() -> Path:
    """Return where guests are kept unless told otherwise."""
    root = os.environ.get("CLOUDIFY_LIBVIRT_CACHE") or Path.home() / ".cache" / "cloudify-libvirt"
    return Path(root) / "guests"


def _source_files(guest: Guest) -> Iterator[Path]:
    for name in (*COMMON_SOURCES, *guest.sources):
        path = HERE / name
        yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def sources_hash(guest: Guest) -> str:
    """Hash the scripts and guest files that make this kind."""
    digest = hashlib.sha256()
    for path in _source_files(guest):
        executable = bool(path.stat().st_mode & 0o100)
        digest.update(f"{path.relative_to(HERE)} {executable} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(content, indent=1))
    scratch.rename(path)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def is_intact(path: Path) -> bool:
    """Say whether the file is the one that was built: size and time as recorded, or else its sha256."""
    recorded = _read(_sidecar(path))
    if not recorded or not path.is_file() or path.stat().st_size != recorded["size"]:
        return False
    if path.stat().st_mtime_ns == recorded["mtime_ns"]:
        return True
    progress(f"{path.name} was touched: comparing its sha256")
    if _sha256(path) != recorded["sha256"]:
        return False
    _write(_sidecar(path), {**recorded, "mtime_ns": path.stat().st_mtime_ns})
    return True


def _quick_answer(guest: Guest, directory: Path) -> Path | None:
    current = _read(directory / f"{guest.kind}.current.json")
    if current.get("sources") != sources_hash(guest) or current.get("apt") != apt_state():
        return None
    path = directory / current["name"]
    return path if is_intact(path) else None


@contextmanager
def _locked(directory: Path, kind: str) -> Iterator[None]:
    with (directory / f"{kind}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another build of {kind} is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(guest: Guest, path: Path, packages: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix=f".build-{guest.kind}-", dir=path.parent) as scratch:
        made = guest.build(Path(scratch))
        made.chmod(0o644)
        record = {"size": made.stat().st_size, "mtime_ns": made.stat().st_mtime_ns, "sha256": _sha256(made)}
        _write(_sidecar(path), {**record, "packages": packages})
        made.rename(path)


def _remove_leftovers(directory: Path, kind: str) -> None:
    for leftover in directory.glob(f".build-{kind}-*"):  # of builds that were killed: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)


def obtain(guest: Guest, directory: Path, force: bool) -> Path:
    """Return the path of the guest, building it when it is not there, not intact, out of date, or force says so."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(
            f"cannot create the cache {directory}: {error.strerror}; choose another with --cache"
        ) from error
    answer = None if force else _quick_answer(guest, directory)
    if answer:
        return answer
    with _locked(directory, guest.kind):
        answer = None if force else _quick_answer(guest, directory)
        return answer or _update(guest, directory, force)


def _update(guest: Guest, directory: Path, force: bool) -> Path:
    guest.check_host()
    _remove_leftovers(directory, guest.kind)
    sources, apt, packages = sources_hash(guest), apt_state(), guest.packages()
    key = hashlib.sha256("\n".join([sources, *packages]).encode()).hexdigest()[:16]
    path = directory / f"{guest.kind}-{key}{guest.suffix}"
    if force or not is_intact(path):
        progress(f"building {path.name}")
        _publish(guest, path, packages)
        progress(f"built {path.name}: {path.stat().st_size / 1e6:.1f} MB")
    _write(directory / f"{guest.kind}.current.json", {"sources": sources, "apt": apt, "name": path.name})
    return path
