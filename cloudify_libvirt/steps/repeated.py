"""What a run made that was killed or failed, and is run again: the same call then finds its own work, no conflict."""

from __future__ import annotations

from datetime import datetime

from cloudify_libvirt.engine import repeats_since
from cloudify_libvirt.request import Request


def by_repeated_run(request: Request, created: float | str | None, *, failed: bool = True) -> bool:
    """Tell whether something was made by the run that this one repeats, which was killed, or also ``failed``.

    ``created``: when it was made, as seconds since 1970 or in ISO 8601; None where nobody knows, which is never ours:
    a backup outlives what is recorded of it, and is removed by no guess.
    """
    since = repeats_since(request.ctx, failed=failed)
    if since is None or created is None:
        return False
    made = datetime.fromisoformat(created).timestamp() if isinstance(created, str) else created
    # The engine keeps whole seconds.
    return made >= int(since)


def written(request: Request, name: str, found: float | None, *, failed: bool = True) -> bool:
    """Tell whether a snapshot or backup of that name was made by the run that this one repeats.

    ``found``: the time that it has itself, of which nothing may have been written down as the kill came first.
    """
    entry = (request.record.get("snapshots") or {}).get(name) or {}
    return by_repeated_run(request, entry.get("created", found), failed=failed)
