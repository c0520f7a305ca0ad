"""Names of deployments, domains, points and checkpoints, as parts of paths and of volumes' names. Pure."""

from __future__ import annotations

import datetime
import hashlib
import re

from cloudify_libvirt.core.errors import InvalidSpec

# Between the parts of a volume's name, where there are no directories; so no part may have it.
SEPARATOR = "~"
# Linux allows 255 bytes in a file name; a volume's name has four parts.
_MOST_BYTES = 60
_CONTROL = re.compile(r"[\x00-\x1f\x7f/\\]")
CHECKPOINT_PREFIX = "cfy-"


def checked(name: str, what: str) -> str:
    """Return a name that is one part of a path and stays in its directory.

    Raises:
        InvalidSpec: it is empty, too long, begins with a dot, or has ``..``, a slash, ``~`` or control characters.
    """
    reason = ""
    if not name.strip():
        reason = "it is empty"
    elif name.startswith(".") or ".." in name or _CONTROL.search(name):
        reason = f"{name!r} would leave the directory of the backups"
    elif SEPARATOR in name:
        reason = f"{name!r} has a {SEPARATOR!r}, which stands between the parts of a name"
    elif len(name.encode("utf-8", "surrogatepass")) > _MOST_BYTES:
        reason = f"it has more than {_MOST_BYTES} bytes"
    if reason:
        raise InvalidSpec("use", what, reason, "Give a name of letters, digits, '-', '_' and single dots.")
    return name


def point_name(name: str) -> str:
    """Return the name of a point, checked."""
    return checked(name, "the name of a point")


def file_name(name: str) -> str:
    """Return the name of a point's file, checked."""
    return checked(name, "the name of a file")


def new_point(now: datetime.datetime, taken: list[str]) -> str:
    """Return a point's name made of the time (UTC), free among those taken."""
    stem = now.strftime("%Y%m%dT%H%M%SZ")
    candidates = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in candidates if name not in taken)


def is_checkpoint(name: str) -> bool:
    """Tell whether a checkpoint's name is one of ours."""
    return name.startswith(CHECKPOINT_PREFIX)


def checkpoint_prefix(store: str) -> str:
    """Return what the names of one store's checkpoints begin with: two stores may keep the same domain."""
    return f"{CHECKPOINT_PREFIX}{hashlib.sha256(store.encode()).hexdigest()[:8]}-"
