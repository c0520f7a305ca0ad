"""What of an installed instance is another one in the new blueprint or on the host, and how that is mended."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core.drift.compare import Difference
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.update.rows import How, Row
from cloudify_libvirt.core.update.table import how
from cloudify_libvirt.planning.compare import ABSENT, Change
from cloudify_libvirt.planning.creation import NOUNS
from cloudify_libvirt.planning.hiding import is_secret, shown
from cloudify_libvirt.planning.looking import Look
from cloudify_libvirt.planning.model import Action, Entry
from cloudify_libvirt.planning.replacing import made_otherwise
from cloudify_libvirt.planning.world import NotYet, World
from cloudify_libvirt.request import EXPANDED
from cloudify_libvirt.steps import declared, drift

_LOOKS: dict[str, Callable[[Any], Iterable[Difference]]] = {
    "domain": drift.domain, "network": drift.network, "pool": drift.pool, "volume": drift.volume,
    "iso9660": drift.iso9660,
}  # fmt: skip
# Of the orchestrator, not of the object.
_OURS = frozenset(
    {"wait_for_ip", "address_timeout_s", "shutdown_timeout_s", "ssh_user", "full_dump", "wipe_on_delete", "zero_wipe",
     "delete_source", "build", "backup_dir"}
)  # fmt: skip
_FIRST = re.compile(r"[^.\[]+")


def describe(entry: Entry, look: Look, world: World, changes: Iterable[Change], old: Mapping[str, Any]) -> None:
    """Say what is to be done to an installed object so that it is as declared; ``old``: its params at the install."""
    record = look.record
    entry.name, entry.uuid = str(record.get("resource_id") or look.name), record.get("uuid")
    entry.host = look.session.uri
    if look.external:
        entry.action = Action.USE
        return
    entry.changes = list(_changes(look, world, list(changes), old))
    replaces = any(one["how"] == How.REPLACE for one in entry.changes)
    entry.action = Action.REPLACE if replaces else Action.CHANGE if entry.changes else Action.KEEP


def _changes(look: Look, world: World, changes: list[Change], old: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    active = _active(look)
    found = _found(look, world)
    seen: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in found:
        key = (one.field, str(one.declared), str(one.found))
        line = seen.setdefault(key, _line(how(look.kind, one.field, active=active), one.field, one.found, one.declared))
        line["where"] = [*line["where"], one.where]
    yield from seen.values()
    named = {_first(one.field) for one in found}
    for change in changes:
        field = change.path.removeprefix("params.")
        if _first(field) in named or (found and _shows(look, world, change.path, old, found)):
            continue
        row = _unseen(look, change.path, field, active, old)
        before, after = shown(change.path, change.old), shown(change.path, change.new)
        yield {**_line(row, field, before, after), "where": ["blueprint"]}


def _found(look: Look, world: World, changed: Mapping[str, Any] = MappingProxyType({})) -> list[Difference]:
    """Return what the host has otherwise; ``changed``: params that are to be other ones, or ``ABSENT``."""
    now = declared.of_today(look)
    assert isinstance(now, Look)
    for key, value in changed.items():
        now.params[key] = value
        if value is ABSENT:
            del now.params[key]
    try:
        world.place_disks(now)
        return list(_LOOKS[look.kind](now))
    except NotYet as error:
        return [Difference(look.label, "disks", error.target, None)]


def _shows(look: Look, world: World, path: str, old: Mapping[str, Any], found: list[Difference]) -> bool:
    """Tell whether the host shows a change of a parameter, under other names."""
    key = _first(path.removeprefix("params."))
    if not path.startswith("params.") or key in EXPANDED:
        return False
    try:
        return _found(look, world, {key: old.get(key, ABSENT)}) != found
    except CoreError:
        # With what it was before, it cannot be told.
        return True


def _unseen(look: Look, path: str, field: str, active: bool, old: Mapping[str, Any]) -> Row:
    """Return how a change of the blueprint is made that the host's documents do not show."""
    if note := made_otherwise(look.kind, path, old, look.properties.get("params") or {}):
        return Row(look.kind, field, How.REPLACE, note=note)
    row = how(look.kind, field, active=active)
    elsewhere = (row.field == "*" and look.kind in NOUNS) or (look.kind == "domain" and _first(field) == "image")
    if not path.startswith("params.") or _first(field) in _OURS or elsewhere:
        return Row(look.kind, field, How.LIVE, note="nothing of it is on the host")
    return row


def _line(row: Row, field: str, old: Any, new: Any) -> dict[str, Any]:
    if is_secret(field):
        old, new = shown(field, old), shown(field, new)
    return {"field": field, "old": old, "new": new, "how": str(row.how), "note": row.note, "where": []}


def _first(field: str) -> str:
    found = _FIRST.match(field)
    return found[0] if found else field


def _active(look: Look) -> bool:
    """Tell whether the object runs; what cannot be off counts as running."""
    noun = NOUNS.get(look.kind)
    try:
        found = look_up(noun, look) if noun else None
        return bool(found.active) if found is not None else noun is None
    except CoreError:
        return True
