"""What a guest last said on its serial console."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cloudify_libvirt.core.session import Session

LINES = 15
# Source: kernel/panic.c
_PANIC = "Kernel panic - not syncing"
_READ_BYTES = 64 * 1024


def tail(session: Session, path: str, lines: int = LINES) -> str:
    """Return the console log's last lines, or "" where the log is not this machine's or not readable.

    After a kernel's panic, the lines around its cause: the last ones are but its stack.
    """
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
    said = [line for line in printable if line.strip()]
    panic = max((number for number, line in enumerate(said) if _PANIC in line), default=len(said))
    begin = max(0, min(panic - 2, len(said) - lines))
    return "\n".join(said[begin : begin + lines])


def remove_log(session: Session, path: str) -> None:
    """Delete the console log of a removed guest; other machines' logs stay."""
    if path and session.is_local:
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)
