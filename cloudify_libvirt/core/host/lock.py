"""Locks that hold across the processes of one machine."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from cloudify_libvirt.core.errors import AccessDenied, Busy

TIMEOUT_S = 120.0


def directory() -> Path:
    """Return the directory of the lock files: one per user, gone after a reboot at the latest.

    Raises:
        AccessDenied: somebody else made a directory of this name.
    """
    if os.getuid() == 0:
        # One for root, however root came to be: a login and sudo differ in XDG_RUNTIME_DIR.
        path = Path("/run/cloudify-libvirt")
    else:
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        path = Path(base) / f"cloudify-libvirt-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise AccessDenied("lock in", f"directory {path}", "it is not ours alone", "Remove it, or see who made it.")
    return path


@contextmanager
def host_lock(uri: str, what: str, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Hold ``what`` of one host alone; the lock of a killed process is free at once (flock).

    All drivers of a host share its networks and pools, so the URI counts only with its host.
    Users do not see each other's locks.
    """
    name = hashlib.sha256(f"{urlsplit(uri).hostname or ''}/{what}".encode()).hexdigest()[:24]
    path = directory() / f"{name}.lock"
    try:
        with FileLock(path, timeout=timeout_s):
            yield
    except Timeout as error:
        raise Busy(
            "lock",
            f"{what} on {uri}",
            f"another process holds {path} for more than {timeout_s:g} s",
            "Let the other run end, or end it.",
        ) from error
