"""What a guest last said on its serial console."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, libvirt_call
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.storage import stream
from cloudify_libvirt.core.volume import Volume

LINES = 15
# Source: kernel/panic.c
_PANIC = "Kernel panic - not syncing"
_READ_BYTES = 64 * 1024


def tail(session: Session, path: str, lines: int = LINES) -> str:
    """Return the console log's last lines, or "" where the log is not readable.

    After a kernel's panic, the lines around its cause: the last ones are but its stack.
    """
    try:
        text = _end(session, path).decode(errors="replace") if path else ""
    except (OSError, CoreError):
        return ""
    printable = ("".join(c for c in line if c.isprintable()) for line in text.splitlines())
    said = [line for line in printable if line.strip()]
    panic = max((number for number, line in enumerate(said) if _PANIC in line), default=len(said))
    begin = max(0, min(panic - 2, len(said) - lines))
    return "\n".join(said[begin : begin + lines])


def _end(session: Session, path: str) -> bytes:
    """Read the end of a log, where it lies; of another host through a pool of its directory."""
    if session.is_local:
        with Path(path).open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - _READ_BYTES))
            return log.read()
    directory, name = posixpath.split(path)
    with overlay.pool_at(session, directory) as pool:
        volume = Volume.get(pool, name)
        with libvirt_call("read", volume.target):
            # Not its capacity: a guest may write what looks like an image.
            size = int(volume.handle.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])
        return stream.read(session, volume.handle, max(0, size - _READ_BYTES), min(size, _READ_BYTES), volume.target)


def remove_logs(session: Session, logs: Iterable[str], domain: str) -> list[tuple[str, CoreError]]:
    """Delete the logs of a removed guest, whose UUID is ``domain``; return those of another host that had to stay.

    With each go those of its earlier parts: virtlogd begins anew when one is full. Source: libvirt, virrotatingfile.c

    Raises:
        CoreError: that may work later; the connection is lost, for one.
    """
    paths = [path for path in logs if path]
    if session.is_local:
        for path in map(Path, paths):
            for one in [path, *(path.with_name(name) for name in _rotated(path.name, _names(path.parent)))]:
                with suppress(OSError):
                    one.unlink(missing_ok=True)
        return []
    left = overlay.remove_all(session, [part for path in paths for part in _parts(session, path)], domain)
    for _path, error in left:
        if error.retryable:
            raise error
    return left


def _rotated(log: str, names: Iterable[str]) -> list[str]:
    """Return the names of a log's earlier parts: its own with a number."""
    return [name for name in names if name.startswith(f"{log}.") and name.removeprefix(f"{log}.").isdigit()]


def _names(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except OSError:
        return []


def _parts(session: Session, path: str) -> list[str]:
    """Return a log of another host with its earlier parts."""
    directory, name = posixpath.split(path)
    try:
        with overlay.pool_at(session, directory) as pool:
            found = _rotated(name, pool.volume_names())
    except CoreError as error:
        if error.retryable:
            raise
        found = []
    return [path, *(posixpath.join(directory, one) for one in found)]
