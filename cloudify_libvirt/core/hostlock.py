"""Locks that hold across the processes of one machine."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cloudify_libvirt.core.errors import Busy

TIMEOUT_S = 120.0


def directory() -> Path:
    """Return the directory of the lock files: one per user, gone after a reboot at the latest."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    path = base / f"cloudify-libvirt-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def host_lock(uri: str, what: str, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Hold ``what`` of one hypervisor alone; the lock of a killed process is free at once (flock)."""
    name = hashlib.sha256(f"{uri}/{what}".encode()).hexdigest()[:24]
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
