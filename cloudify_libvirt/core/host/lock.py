"""Locks that hold across the processes and users of one machine.

Root and the members of libvirt's group drive the same daemon, so they must exclude each other: all locks are ranges of
one file that everybody may open. A lock is one byte whose position comes from its name; the kernel frees it with the
process that held it, so nothing is ever stale, and nothing is left over.

Whoever may log in to the machine can hold a lock, and so make others wait, as with the lock files of other programs.
More cannot be had of the file: nothing but its time is ever written, and nothing read from it.

Source: fcntl(2), open file description locks; file-hierarchy(7), /run/lock
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from cloudify_libvirt.core.errors import AccessDenied, Busy, CoreError
from cloudify_libvirt.core.host import ofd
from cloudify_libvirt.core.wait import Signal, wait_until

TIMEOUT_S = 120.0

# The first that everybody may write to. Not /tmp where it can be helped: some services have one of their own. But
# rather than /dev/shm, where a user's files go when he logs out, also those that others hold (logind, RemoveIPC).
_DIRECTORIES = (Path("/run/lock"), Path("/tmp"), Path("/dev/shm"))
_NAME = "cloudify-libvirt.lock"
_SHARED_MODE = 0o666
_OPEN_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_POSITIONS = 2**62
_DAY_S = 24 * 60 * 60


def path() -> Path:
    """Return the file of all locks: the same for all users of this machine."""
    return next(filter(_is_everybodys, _DIRECTORIES), Path(tempfile.gettempdir())) / _NAME


def _is_everybodys(directory: Path) -> bool:
    """Tell whether all may make files there, and none may remove another's."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and found.st_mode & 0o1777 == 0o1777


@contextmanager
def host_lock(uri: str, what: str, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Hold ``what`` of one host alone; the lock of a killed process is free at once.

    All drivers of a host share its networks and pools, so the URI counts only with its host. Each user has a session
    daemon of his own.

    Raises:
        Busy: somebody else holds it for longer than ``timeout_s``; says who, where that can be seen.
    """
    position = _position(uri, what)
    file = wait_until(lambda: _try_lock(position), timeout_s=timeout_s, signal=Signal())
    if file is None:
        raise Busy(
            "lock",
            f"{what} on {uri or 'this machine'}",
            f"{_holder(position)} holds it for more than {timeout_s:g} s",
            "Let the other run end, or end it.",
        )
    try:
        yield
    finally:
        os.close(file)


def _position(uri: str, what: str) -> int:
    parts = urlsplit(uri)
    owner = f"{os.getuid()}:" if parts.path == "/session" and not parts.hostname else ""
    digest = hashlib.sha256(f"{owner}{parts.hostname or ''}/{what}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _POSITIONS


def _try_lock(position: int) -> int | None:
    """Return the open file with the lock on it; None while somebody else holds it."""
    place = path()
    file = _opened(place)
    try:
        ofd.take(file, position, 1)
        # Removed since it was opened: others lock another one.
        found = os.fstat(file)
        if os.path.samestat(found, place.lstat()):
            _keep_young(file, found.st_mtime)
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(file)
        raise _refused(place, str(error.strerror)) from error
    os.close(file)
    return None


def _keep_young(file: int, changed: float) -> None:
    """Keep the file from what cleans directories of what nobody has touched for days."""
    if time.time() - changed > _DAY_S:
        with suppress(OSError):
            os.utime(file)


def _opened(place: Path) -> int:
    """Open the file of all locks, made if it is not there; never another one that somebody put or linked there."""
    try:
        if not os.path.lexists(place):
            _make(place)
        # Without O_CREAT, which the kernel may refuse for another user's file in a directory like this.
        file = os.open(place, _OPEN_FLAGS)
    except OSError as error:
        raise _refused(place, str(error.strerror)) from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _refused(place, "it is no plain file")
    return file


def _make(place: Path) -> None:
    """Make the file, open to all from the moment that it has its name."""
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{_NAME}.") as draft:
        os.fchmod(draft.fileno(), _SHARED_MODE)
        with suppress(FileExistsError):
            os.link(draft.name, place)


def _refused(place: Path, reason: str) -> CoreError:
    return AccessDenied("lock with", f"file {place}", reason, "See whose it is (ls -l), and remove it.")


def _holder(position: int) -> str:
    """Return, in words, who holds a lock: its open files tell, of one's own processes and to root of all."""
    line = re.compile(rf"^lock:.* OFDLCK .* {position} {position}$", re.MULTILINE)
    for info in Path("/proc").glob("[0-9]*/fdinfo/*"):
        with suppress(OSError):
            if line.search(info.read_text()):
                process = info.parts[2]
                words = Path("/proc", process, "comm").read_text().strip()
                return f"process {process} ({words})"
    return "another user's process"
