"""What a guest last said on its serial console."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path

from cloudify_libvirt.core.session import Session

LINES = 15
_READ_BYTES = 64 * 1024


def tail(session: Session, path: str, lines: int = LINES) -> str:
    """Return the console log's last lines, or "" where the log is not this machine's or not readable."""
    if not path or not session.is_local:
        return ""
    try:
        with Path(path).open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - _READ_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    printable = ("".join(c for c in line if c.isprintable()) for line in text.splitlines())
    return "\n".join(deque((line for line in printable if line.strip()), maxlen=lines))


def remove_log(session: Session, path: str) -> None:
    """Delete the console log of a removed guest; other machines' logs stay."""
    if path and session.is_local:
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)
