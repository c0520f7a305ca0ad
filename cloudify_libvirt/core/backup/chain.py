"""Points and what they stand on: chains, dependants, and which ones a rotation lets go. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cloudify_libvirt.core.backup.manifest import DiskEntry, Manifest
from cloudify_libvirt.core.errors import BackupBroken, InUse, InvalidSpec, Missing

Points = Mapping[str, Manifest]


def ordered(points: Points) -> list[Manifest]:
    """Return the points, the oldest first."""
    return sorted(points.values(), key=lambda one: one.sequence)


def get(points: Points, name: str, label: str) -> Manifest:
    """Return the point of that name, or the newest for ""; raise ``Missing`` with the names there are."""
    if not name and points:
        return ordered(points)[-1]
    if not points:
        raise Missing("find", f"{f'point {name!r}' if name else 'a point'} of {label}", "there is none at all")
    if name not in points:
        names = ", ".join(one.point for one in ordered(points)[-10:]) or "none"
        raise Missing("find", f"point '{name}' of {label}", "it does not exist", f"There is: {names}.")
    return points[name]


def chain(points: Points, name: str) -> list[Manifest]:
    """Return the points that one is restored from: a full one first, itself last.

    Raises:
        BackupBroken: one of them is missing.
    """
    found = [points[name]]
    while found[0].parent:
        parent = points.get(found[0].parent)
        if parent is None or parent.sequence >= found[0].sequence:
            reason = f"point '{found[0].point}' needs point '{found[0].parent}', which is not there"
            raise BackupBroken("use", f"point '{name}'", reason, "Restore a point of another chain.")
        found.insert(0, parent)
    return found


def layers(points: Points, name: str, target: str) -> list[tuple[Manifest, DiskEntry]]:
    """Return the files of one disk, the one with everything first.

    Raises:
        BackupBroken: a point of the chain lacks the disk.
    """
    found: list[tuple[Manifest, DiskEntry]] = []
    for manifest in reversed(chain(points, name)):
        entry = manifest.disk(target)
        if entry is None:
            break
        found.insert(0, (manifest, entry))
        if not entry.incremental:
            return found
    raise BackupBroken("use", f"disk {target} of point '{name}'", "no full copy of it is in the chain")


def dependants(points: Points, name: str) -> list[str]:
    """Return the points that need this one, directly or not."""
    return [one.point for one in ordered(points) if one.point != name and name in _ancestry(points, one.point)]


def _ancestry(points: Points, name: str) -> set[str]:
    found: set[str] = set()
    while name and name not in found:
        found.add(name)
        # One that cannot be read is needed all the same.
        name = points[name].parent if name in points else ""
    return found


def refuse_dependants(points: Points, name: str, label: str) -> None:
    """Raise ``InUse`` with the points that could not be restored any more without this one."""
    needing = dependants(points, name)
    if needing:
        reason = f"the points {', '.join(needing)} stand on it"
        raise InUse("delete", f"point '{name}' of {label}", reason, "Delete these first, the newest first, or prune.")


@dataclass(frozen=True)
class Keep:
    """What a rotation keeps: the newest points, and the newest one of each of the last days, weeks, months (UTC)."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


def _day(when: datetime.datetime) -> object:
    return when.date()


def _week(when: datetime.datetime) -> object:
    return when.isocalendar()[:2]


def _month(when: datetime.datetime) -> object:
    return (when.year, when.month)


def kept(points: Points, keep: Keep) -> set[str]:
    """Return the points that stay: those asked for, and all that these stand on.

    Raises:
        InvalidSpec: nothing would stay.
    """
    if min(keep.last, keep.daily, keep.weekly, keep.monthly) < 0 or not any(
        (keep.last, keep.daily, keep.weekly, keep.monthly)
    ):
        raise InvalidSpec("prune", "backups", "no number of points to keep was given", "Give keep_last, for example.")
    newest_first = list(reversed(ordered(points)))
    wanted = {one.point for one in newest_first[: keep.last]}
    for count, period in ((keep.daily, _day), (keep.weekly, _week), (keep.monthly, _month)):
        wanted |= _one_each(newest_first, count, period)
    return set().union(*(_ancestry(points, name) for name in wanted))


def _one_each(newest_first: list[Manifest], count: int, period: Callable[[datetime.datetime], object]) -> set[str]:
    found: dict[object, str] = {}
    for one in newest_first:
        found.setdefault(period(datetime.datetime.fromisoformat(one.created)), one.point)
    return set(list(found.values())[:count])


def expired(points: Points, keep: Keep) -> list[str]:
    """Return the points that a rotation lets go, in the order of deletion: what stands on others first."""
    staying = kept(points, keep)
    return [one.point for one in reversed(ordered(points)) if one.point not in staying]
