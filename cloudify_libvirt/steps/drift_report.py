"""What a check of drift says: a warning of what others changed, a note of what the user's own declaration asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from cloudify_libvirt.core.drift.compare import CONFIG, Difference
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.request import Request, unrecorded
from cloudify_libvirt.steps import declared, foresight, status
from cloudify_libvirt.steps.foresight import Foreseen

Look = Callable[[Request], Iterable[Difference]]
Key = tuple[str, str, str]
_FIRST = re.compile(r"[.\[]")


def check(request: Request, look: Look) -> list[dict[str, Any]] | None:
    """Return all differences as JSON can hold them, or None; each is logged, too.

    What was never made, and what is not ours, is not declared.
    """
    if not status.made(request) or request.external:
        return None
    now = declared.of_today(request)
    differences = list(look(now))
    marked = [_marked(request, one) for one in differences]
    if marked:
        _tell(request, marked, _of_others(request, look, differences), foresight.of(now, differences))
    return [one.plain() for one in marked] or None


def _marked(request: Request, found: Difference) -> Difference:
    """Return a difference with what an update left it for."""
    entry = (request.record.get("update_pending") or {}).get(found.field)
    # A definition waits for nothing; but a name cannot change in it before the domain is off.
    waits = found.where != CONFIG or found.field == "name"
    return replace(found, pending=str(entry["why"])) if entry and waits else found


def _tell(request: Request, marked: list[Difference], others: set[Key], foreseen: Iterable[Foreseen]) -> None:
    ways = {_key(one.difference): one for one in foreseen}
    secret = unrecorded(request.kind)
    for one in marked:
        way = ways.get(_key(one))
        if one.pending:
            request.record.note(f"waits: {one.object}: {one.change}: {one.pending}")
        elif _key(one) in others and _FIRST.split(one.field)[0] not in secret:
            request.record.warn(f"drift: {one}")
        else:
            request.record.note(f"wanted: {one.object}: {one.change}{f' ({_way(way)})' if way else ''}")


def _way(one: Foreseen) -> str:
    return f"{one.how}: {one.note}" if one.how is How.REFUSED else str(one.how)


def _key(one: Difference) -> Key:
    return one.field, one.where, str(one.found)


def _of_others(request: Request, look: Look, differences: list[Difference]) -> set[Key]:
    """Return the differences that were there for what was declared last, too: somebody changed the host.

    What an update refused the user wants all the same.
    """
    refused = str(request.record.get("update_refused") or "")
    there = {_key(one) for one in differences if not _names(refused, one.field)}
    last = _declared_last(request)
    if last is None:
        return there
    try:
        return there & {_key(one) for one in look(last)}
    except CoreError:
        # What was declared then cannot be any more.
        return there


def _names(text: str, field: str) -> bool:
    """Tell whether a text names a field, and not another that begins or ends like it."""
    return re.search(rf"(?<![\w.]){re.escape(field)}(?![\w.]*\w)", text) is not None


def _declared_last(request: Request) -> Request | None:
    """Return the request as it was when the object was brought in line last; None where that is the one of today."""
    seen, today = request.record.get("params_from_properties"), dict(request.properties.get("params") or {})
    # Of these nobody knows what they were.
    before = {**{key: today[key] for key in today.keys() & unrecorded(request.kind)}, **(seen or {})}
    if seen is None or before == today:
        return None
    last = declared.of_today(request)
    vars(last)["properties"] = {**dict(request.properties), "params": before}
    return last
