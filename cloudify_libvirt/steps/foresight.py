"""What an update would do about each difference, by the rules that it goes by itself; nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.drift.compare import CONFIG, LIVE, Difference
from cloudify_libvirt.core.drift.rules import local
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.storage import growth
from cloudify_libvirt.core.units import check_growth
from cloudify_libvirt.core.update import listed, sizes
from cloudify_libvirt.core.update.definition import Change
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.core.update.table import how
from cloudify_libvirt.core.update.withdrawn import brought
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import change, declared, network_update, status, volume_update
from cloudify_libvirt.steps import update as sized

_FOREIGN = "added by others: no update touches it"
_GONE = "it is gone; heal it first: cfy executions start heal -b {deployment}"
_WITH = "with {field}"
_NOTHING_BESIDE = "nothing is changed while {field} is refused"
_NO_PLACE = "the bus {bus} takes and gives no disk while it runs"
_NO_VOLUME = "there is no such volume: its own node makes it"
_POOL_FIRST = "its pool is started first"
_POOL_OF_DISK = re.compile(r"disks\[\d+\]\.pool")
# Source: qemu_hotplug.c, qemuDomainAttachDeviceDiskLiveInternal
_HOT_BUSES = frozenset({"virtio", "scsi", "usb"})


@dataclass(frozen=True)
class Foreseen:
    """What becomes of one difference."""

    difference: Difference
    how: How
    note: str = ""

    @property
    def field(self) -> str:
        """Return what differs."""
        return self.difference.field

    def refused(self, why: str) -> Foreseen:
        """Return it as refused; what stays does so anyway."""
        return self if self.how is How.STAYS else Foreseen(self.difference, How.REFUSED, why)


Lines = list[Foreseen]


def of(now: Request, differences: list[Difference]) -> Lines:
    """Return what an update would do; ``now``: the request of today (``declared.of_today``), which is not recorded."""
    return _FORESEE[now.kind](now, differences) if differences else []


def _by_table(kind: str, one: Difference, *, active: bool) -> Foreseen:
    row = how(kind, one.field, active=active)
    return Foreseen(one, row.how, row.note)


def _refused_with(lines: Lines, refusals: dict[str, str]) -> Lines:
    """Return the lines where one refusal stops everything: by field why, and the others with the first of these."""
    if not refusals:
        return lines
    first = next(iter(refusals))
    beside = _NOTHING_BESIDE.format(field=first)
    return [one.refused(refusals.get(one.field, beside)) for one in lines]


# --- domains


def domain(now: Request, differences: list[Difference]) -> Lines:
    """Foresee the update of a domain."""
    found: Domain | None = look_up(Domain, now)
    if found is None:
        gone = _GONE.format(deployment=now.ctx.deployment.id)
        return [Foreseen(one, How.REFUSED, gone) for one in differences]
    active = found.active
    lines = [_by_table("domain", one, active=active) for one in differences]
    lost = {finding.field: finding.text for finding in status.lost(now) if finding.lost}
    missing = {one.field: f"{one.declared}: there is none" for one in differences if one.field == "disks"}
    if lost or missing:
        return _refused_with(lines, lost or missing)
    if any(_POOL_OF_DISK.fullmatch(one.field) for one in differences):
        # It is told of nothing else then, and to look further would start the pool.
        return [Foreseen(one.difference, How.LIVE, _POOL_FIRST) for one in lines]
    work = change.Work.of(found, now, now)
    seen = _Seen.of(work, active=active)
    lines, extra = [seen.line(one) for one in lines], list(_elsewhere(work, found))
    return _refused_with([*lines, *extra], dict(_domain_refusals(lines, extra)))


@dataclass(frozen=True)
class _Seen:
    """What the documents of a domain say beside the differences' names."""

    active: bool
    changes: dict[tuple[str, str], Change]
    later: dict[str, str]
    foreign: Callable[[Change], bool]

    @classmethod
    def of(cls, work: change.Work, *, active: bool) -> _Seen:
        later: dict[str, str] = {}
        if active:
            later = sizes.at_start(sized.wish(work.now, with_dimms=work.subject.dimms), work.domain.xml())
        found = {
            (one.field, where): one for where in ((CONFIG, LIVE) if active else (CONFIG,)) for one in work.all(where)
        }
        return cls(active, found, later, work.is_foreign)

    def line(self, one: Foreseen) -> Foreseen:
        found = self.changes.get((one.field, one.difference.where))
        if one.field in sized.KEYS:
            if self.active and one.field in self.later and self._in_both(one):
                return Foreseen(one.difference, How.RESTART, self.later[one.field] or one.note)
            return Foreseen(one.difference, How.LIVE, one.note)
        if found is not None and self.foreign(found):
            return Foreseen(one.difference, How.STAYS, _FOREIGN)
        if found is not None and one.how in (How.RESTART, How.NEXT_BOOT) and self._only_stored(one, found):
            return Foreseen(one.difference, How.LIVE, "of the definition alone")
        if found is not None and one.how is How.LIVE and self.active and (bus := _cold_bus(found)):
            return Foreseen(one.difference, How.RESTART, _NO_PLACE.format(bus=bus))
        return one

    def _in_both(self, one: Foreseen) -> bool:
        """Tell whether the running guest has it otherwise, too."""
        return (one.field, LIVE) in self.changes

    def _only_stored(self, one: Foreseen, found: Change) -> bool:
        """Tell whether the running domain has it so already, and shows that."""
        return one.field != "name" and not self._in_both(one) and found.shown_live


def _cold_bus(found: Change) -> str:
    """Return the bus of a disk that comes or goes, where that takes a restart; else ""."""
    disk = found.spot.wanted if found.comes else found.spot.found if found.goes else None
    target = disk.find("target") if disk is not None and local(disk) == "disk" else None
    bus = "" if target is None else str(target.get("bus") or "")
    return "" if bus in _HOT_BUSES else bus


def _elsewhere(work: change.Work, found: Domain) -> Iterator[Foreseen]:
    """Yield the disks that the update would refuse to point away from what the guest wrote of late."""
    root = work.document(CONFIG if found.persistent else LIVE)
    for one in listed.elsewhere(work.subject, work.wanted, root, work.last):
        difference = Difference(work.subject.label, one.field, one.declared, one.found, CONFIG)
        yield Foreseen(difference, How.REFUSED, "it is in a file that no blueprint named")


def _domain_refusals(lines: Iterable[Foreseen], extra: Iterable[Foreseen]) -> Iterator[tuple[str, str]]:
    for one in lines:
        if one.field == "image.size" and (why := _shrinks(one.difference)):
            yield one.field, why
        elif one.how is How.REPLACE:
            yield one.field, f"it cannot change in place: {one.note}"
    yield from ((one.field, one.note) for one in extra)


def _shrinks(one: Difference) -> str:
    """Return why a size is refused, or ""."""
    try:
        check_growth("resize", one.object, int(one.found), int(one.declared))
    except CoreError as error:
        return error.reason
    return ""


# --- networks, pools, volumes, images


def network(now: Request, differences: list[Difference]) -> Lines:
    """Foresee the update of a network."""
    found: Network | None = look_up(Network, now)
    lines = _of_standing("network", differences, active=found is not None and found.active)
    if found is None:
        return lines
    if replaced := [one.field for one in lines if one.how is How.REPLACE]:
        users = found.users()
        named = f"running domains are on it: {', '.join(users[:5])}; stop them first"
        return _replaced(lines, replaced[0], named if users else "")
    wanted, last = declared.network(now), str(now.record.get("declared") or "")
    try:
        network_update.check_place(found, brought(network_update.SUBJECT, wanted, last, found.xml()))
    except CoreError as error:
        return [one.refused(error.reason) for one in lines]
    return lines


def pool(now: Request, differences: list[Difference]) -> Lines:
    """Foresee the update of a pool."""
    found: Pool | None = look_up(Pool, now)
    back = found is None or found.vanished
    active = found is not None and found.active
    # What is gone is made again, as it was, before anything else.
    again = [one for one in differences if back and one.field in ("path", "existence") and one.found is None]
    rest = [one for one in differences if one not in again]
    lines = [
        *(Foreseen(one, How.LIVE, "made again, without what was in it") for one in again),
        *_of_standing("pool", rest, active=active),
    ]
    replaced = [one.field for one in lines if one.how is How.REPLACE]
    if found is None or not replaced:
        return lines
    held = list(dict.fromkeys([*found.volume_names(), *found.contents()])) if active else []
    why = f"it holds {', '.join(held[:5])}, which would stay where they are" if held else ""
    return _replaced(lines, replaced[0], why)


def _of_standing(kind: str, differences: list[Difference], *, active: bool) -> Lines:
    """Return the lines of an object that is defined and may run: only what runs otherwise waits for its start."""
    lines = [_by_table(kind, one, active=active) for one in differences]
    running = {one.field for one in differences if one.where == LIVE}
    return [
        Foreseen(one.difference, How.LIVE, "of the definition alone")
        if one.how is How.RESTART and one.difference.where == CONFIG and one.field not in running
        else one
        for one in lines
    ]


def _replaced(lines: Lines, field: str, why_not: str) -> Lines:
    """Return the lines of an object that another takes the place of, with all that is declared of it."""
    if why_not:
        return [one.refused(why_not) for one in lines]
    return [
        one if one.how in (How.REPLACE, How.STAYS) else Foreseen(one.difference, How.REPLACE, _WITH.format(field=field))
        for one in lines
    ]


def volume(now: Request, differences: list[Difference]) -> Lines:
    """Foresee the update of a volume."""
    drifted = volume_update.drifted(now, differences)
    wanted = [one for one in differences if volume_update.wants_another(now, one)]
    return [_of_volume(now, one, wanted, drifted) for one in differences]


def _of_volume(now: Request, one: Difference, wanted: list[Difference], drifted: list[Difference]) -> Foreseen:
    line = _by_table("volume", one, active=True)
    if one.field in volume_update.NOT_BY_ANOTHER:
        return Foreseen(one, How.STAYS, volume_update.CHMOD)
    if one in wanted:
        users = _users(now)
        return line.refused(f"it is used by {', '.join(users[:5])}; remove its users first") if users else line
    if one in drifted:
        return line.refused(f"it became so on the host alone; {volume_update.UNDO}")
    if drifted:
        return line.refused(volume_update.WAITS)
    why = _cannot_grow(now, one) if one.field == "size" else ""
    if why and wanted:
        return Foreseen(one, How.REPLACE, _WITH.format(field=wanted[0].field))
    return line.refused(why) if why else line


def _cannot_grow(now: Request, one: Difference) -> str:
    found = _stored(now)
    try:
        if found is not None:
            growth.check(found, int(one.declared), declared.stored_as(now))
    except CoreError as error:
        return error.reason
    return ""


def _stored(now: Request) -> Volume | None:
    """Return the volume; where its pool is off or it is gone nobody is asked, as that would change something."""
    held: Pool | None = Pool.find(now.session, str(now.record.get("pool")))
    return status.stored(held, str(now.record.get("resource_id"))) if held is not None and held.active else None


def _users(now: Request) -> list[str]:
    found = _stored(now)
    return [] if found is None else list(dict.fromkeys(found.users()))


def iso9660(_now: Request, differences: list[Difference]) -> Lines:
    """Foresee the update of an ISO image."""
    lines = [_by_table("iso9660", one, active=True) for one in differences]
    return [one.refused(_NO_VOLUME) if one.how is How.REPLACE else one for one in lines]


_FORESEE: dict[str, Callable[[Request, list[Difference]], Lines]] = {
    "domain": domain, "network": network, "pool": pool, "volume": volume, "iso9660": iso9660,
}  # fmt: skip
