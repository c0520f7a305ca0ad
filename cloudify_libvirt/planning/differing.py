"""What of an installed instance is another one in the new blueprint or on the host, and how that is mended."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from cloudify_libvirt.core.drift.compare import Difference
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.planning.compare import ABSENT, Change, differences
from cloudify_libvirt.planning.hiding import is_secret, shown
from cloudify_libvirt.planning.looking import Look
from cloudify_libvirt.planning.model import Action, Entry
from cloudify_libvirt.planning.replacing import as_made, made_otherwise
from cloudify_libvirt.planning.world import NotYet, World
from cloudify_libvirt.request import EXPANDED
from cloudify_libvirt.steps import declared, drift, foresight
from cloudify_libvirt.steps.foresight import Foreseen

_LOOKS: dict[str, Callable[[Any], Iterable[Difference]]] = {
    "domain": drift.domain, "network": drift.network, "pool": drift.pool, "volume": drift.volume,
    "iso9660": drift.iso9660,
}  # fmt: skip
# Of a volume: what it was made of, which nobody compares.
_MADE_OF = frozenset({"content", "encryption", "image", "source_volume", "url"})
_NOT_ON_HOST = "nothing of it is on the host"
_AS_MADE = "it stays what it was made of"
_FIRST = re.compile(r"[^.\[]+")
_PARAMS = "params."
Line = dict[str, Any]


def describe(entry: Entry, look: Look, world: World, changes: Iterable[Change], old: Mapping[str, Any]) -> None:
    """Say what is to be done to an installed object so that it is as declared; ``old``: its params at the install."""
    record = look.record
    entry.name, entry.uuid = str(record.get("resource_id") or look.name), record.get("uuid")
    entry.host = look.session.uri
    asked = _rendered(look, list(changes), old)
    entry.changes = list(_made_anew("" if look.external else look.kind, look, asked, old))
    if look.external:
        entry.action = Action.REPLACE if entry.changes else Action.USE
        return
    if entry.changes:
        entry.changes += _with_it(entry.changes, look, world, asked, old)
    else:
        entry.changes = list(_changes(look, world, asked, old))
    entry.action = action_of(entry.changes)


def action_of(lines: list[Line]) -> Action:
    """Return what becomes of an installed instance with these changes."""
    ways = {one["how"] for one in lines} - {How.STAYS}
    return Action.REPLACE if How.REPLACE in ways else Action.CHANGE if ways else Action.KEEP


def _rendered(look: Look, changes: list[Change], old: Mapping[str, Any]) -> list[Change]:
    """Return the changes with texts in place of templates, as this instance has them."""
    if not any(_first(_field(one)) in EXPANDED for one in changes):
        return changes
    try:
        before, after = (look.rendered(params) for params in (old, look.properties.get("params") or {}))
    except CoreError:
        return changes
    rest = [one for one in changes if _first(_field(one)) not in EXPANDED]
    for key in EXPANDED:
        rest += differences(before.get(key, ABSENT), after.get(key, ABSENT), f"{_PARAMS}{key}")
    return rest


def _made_anew(kind: str, look: Look, changes: list[Change], old: Mapping[str, Any]) -> Iterator[Line]:
    """Yield what only another object could follow."""
    made = as_made(old, look.record.all())
    for one in changes:
        note = made_otherwise(kind, one.path, made, look.properties.get("params") or {})
        if note:
            yield _of_blueprint(one, How.REPLACE, note)


def _with_it(anew: list[Line], look: Look, world: World, changes: list[Change], old: Mapping[str, Any]) -> list[Line]:
    """Return the other changes of an object that another takes the place of."""
    said = {_first(one["field"]) for one in anew}
    others = [one for one in _changes(look, world, changes, old) if _first(one["field"]) not in said]
    return [{**one, "how": str(How.REPLACE), "note": f"with {anew[0]['field']}"} for one in others]


def _changes(look: Look, world: World, changes: list[Change], old: Mapping[str, Any]) -> Iterator[Line]:
    found, foreseen = _foreseen(look, world)
    seen: dict[tuple[str, str, str], Line] = {}
    for one in foreseen:
        stays = one.how is How.STAYS
        key = (one.field, "", "") if stays else (one.field, str(one.difference.declared), str(one.difference.found))
        line = seen.setdefault(key, _line(one))
        line["where"] = [*line["where"], one.difference.where]
    yield from seen.values()
    named = {_first(one.field) for one in found}
    stopped = next((one.note for one in foreseen if one.field == "existence" and one.how is How.REFUSED), "")
    for change in changes:
        hidden = _first(_field(change)) in named or (found and _shows(look, world, change.path, old, found))
        if not hidden:
            yield _unseen(look, change, stopped)


def _foreseen(look: Look, world: World) -> tuple[list[Difference], list[Foreseen]]:
    """Return what the host has otherwise, and what an update does about it."""
    try:
        now = _today(look, world)
        found = list(_LOOKS[look.kind](now))
        return found, [_planned(one, now, world) for one in foresight.of(now, found)]
    except NotYet as error:
        later = Difference(look.label, "disks", error.target, None)
        return [later], [Foreseen(later, How.LIVE, "its place is known when it is made")]


def _planned(one: Foreseen, now: Look, world: World) -> Foreseen:
    """Return the line of an image with its volume, if a node is to make that first."""
    made = one.field == "volume" and (now.uri, now.draft.pool, now.draft.volume) in world.volumes
    return Foreseen(one.difference, How.LIVE, "written into the volume that is made") if made else one


def _today(look: Look, world: World, changed: Mapping[str, Any] = MappingProxyType({})) -> Look:
    """Return the request of today; ``changed``: params that are to be other ones, or ``ABSENT``.

    Raises:
        NotYet: what it needs has no place yet.
    """
    now = declared.of_today(look)
    assert isinstance(now, Look)
    for key, value in changed.items():
        now.params[key] = value
        if value is ABSENT:
            del now.params[key]
    world.place_disks(now)
    return now


def _shows(look: Look, world: World, path: str, old: Mapping[str, Any], found: list[Difference]) -> bool:
    """Tell whether the host shows a change of a parameter, under other names."""
    key = _first(path.removeprefix(_PARAMS))
    if not path.startswith(_PARAMS) or key in EXPANDED:
        return False
    try:
        return list(_LOOKS[look.kind](_today(look, world, {key: old.get(key, ABSENT)}))) != found
    except CoreError:
        # With what it was before, it cannot be told.
        return True


def _unseen(look: Look, change: Change, stopped: str) -> Line:
    """Return a change of the blueprint that the host does not show; ``stopped``: why nothing is done at all."""
    if stopped:
        return _of_blueprint(change, How.REFUSED, stopped)
    if look.kind == "volume" and _first(_field(change)) in _MADE_OF:
        return _of_blueprint(change, How.STAYS, _AS_MADE)
    return _of_blueprint(change, How.LIVE, _NOT_ON_HOST)


def _of_blueprint(change: Change, how: How, note: str) -> Line:
    before, after = shown(change.path, change.old), shown(change.path, change.new)
    new = before if how is How.STAYS else after
    return {"field": _field(change), "old": before, "new": new, "how": str(how), "note": note, "where": ["blueprint"]}


def _line(one: Foreseen) -> Line:
    old, new = one.difference.found, one.difference.declared
    if one.how is How.STAYS:
        new = old
    if is_secret(one.field):
        old, new = shown(one.field, old), shown(one.field, new)
    return {"field": one.field, "old": old, "new": new, "how": str(one.how), "note": one.note, "where": []}


def _field(change: Change) -> str:
    return change.path.removeprefix(_PARAMS)


def _first(field: str) -> str:
    found = _FIRST.match(field)
    return found[0] if found else field
