"""What of a node is not as declared: the host is looked at, nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core import parse, states, units
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.drift.called import names
from cloudify_libvirt.core.drift.compare import CONFIG, LIVE, Difference, Subject, compare
from cloudify_libvirt.core.errors import Missing
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.ownership import mark
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.snapshot import above
from cloudify_libvirt.core.storage import formats
from cloudify_libvirt.core.update import definition, sizes
from cloudify_libvirt.core.update.withdrawn import withdrawn
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, machine, parts, status
from cloudify_libvirt.steps import iso9660 as iso_steps
from cloudify_libvirt.steps import volume as volumes

Found = Iterator[Difference]


def domain(request: Request) -> Found:
    """Compare a domain: its definitions, whether it runs, what it stands on."""
    label = f"domain '{request.record.get('resource_id')}'"
    found: Domain | None = look_up(Domain, request)
    if found is None:
        yield Difference(label, "existence", "defined", None)
        return
    if request.record.get("restarting"):
        # An update that was killed: the addresses are those of the run before.
        yield Difference(label, "restart", "finished", "begun")
    for finding in status.lost(request):
        yield Difference(label, finding.field, finding.declared, None)
    off = list(_pools_off(request))
    if off:
        # Of a pool that is off libvirt does not tell the volumes, and a check starts nothing.
        for position in off:
            yield Difference(label, f"disks[{position}].pool", "active", "inactive")
        return
    try:
        plan, xml = declared.domain(request)
    except Missing as error:
        yield Difference(label, "disks", error.target, None)
        return
    subject = declared.subject(request, label, plan, xml, found)
    for one in (*_documents(found, subject, xml), *_passwords(found, subject, xml)):
        if not declared.implied(request.spec, one) and not _has_it(found, one):
            yield one
    yield from parts_of(request, plan, found, label)
    yield from lost_mark(found, xml, label)
    yield from _autostart(found, request, label)
    yield from _state(found, request, label)
    for finding in status.reservations(request, plan):
        yield Difference(label, finding.field, finding.declared, finding.found)


def _has_it(found: Domain, one: Difference) -> bool:
    """Tell whether the guest has the memory already: libvirt hears of it a second later."""
    live = one.field == "memory" and one.where == LIVE
    return live and sizes.close(sizes.actual_kib(found) * units.KIB, int(one.declared))


def parts_of(request: Request, plan: machine.Plan, found: Domain, label: str) -> Found:
    """Compare what was made for the domain: the size of its root, and what its seed says."""
    for root in roots(request, plan, found):
        if root.capacity_bytes != root.wanted_bytes:
            yield Difference(label, "image.size", root.wanted_bytes, root.capacity_bytes)
    yield from seed_of(request, plan, label)


def seed_of(request: Request, plan: machine.Plan, label: str) -> Found:
    """Compare what the seed says."""
    for part in plan.parts:
        pool = Pool.find(request.session, part.pool) if part.kind == "seed" else None
        if pool is None or not pool.active:
            continue
        there = status.stored(pool, part.name)
        seed = parts.seed_image(request, plan)
        if there is None:
            yield Difference(label, "cloud_init", "a seed", None)
        elif status.content(there, len(seed)) != seed:
            # What it says may be secret.
            yield Difference(label, "cloud_init", "as in the blueprint", "other contents")


@dataclass(frozen=True)
class Root:
    """The domain's own root disk: the file that it uses, which a snapshot may have put on the one that was made."""

    path: str
    target: str
    format: str
    capacity_bytes: int
    wanted_bytes: int


def roots(request: Request, plan: machine.Plan, found: Domain) -> Iterator[Root]:
    """Yield the domain's own root disk, where a size is declared."""
    wanted: int = (request.spec.image.size if request.spec.image else None) or 0
    for part in plan.parts:
        pool = Pool.find(request.session, part.pool) if part.kind == "root" and wanted else None
        volume = status.stored(pool, part.name) if pool is not None and pool.active else None
        if volume is None:
            continue
        top = declared.top_of(found, volume.path)
        if top == volume.path:
            format_ = PurePosixPath(part.name).suffix[1:]
            yield Root(top, volume.target, format_, formats.capacity(volume, format_), wanted)
            continue
        with above.opened(request.session, top) as other:
            label = f"file {top}, which stands on {volume.target}"
            seen = Root(top, label, "qcow2", other.facts().capacity_bytes, wanted)
        yield seen


def defined_so(request: Request, plan: machine.Plan, xml: str, found: Domain) -> bool:
    """Tell whether the domain's stored definition has all that is declared, whoever's it was; it may run otherwise."""
    if not found.persistent:
        return False
    subject = declared.subject(request, found.target, plan, xml, found)
    stored = [*compare(subject, xml, found.definition()), *_passwords(found, subject, xml)]
    return all(declared.implied(request.spec, one) for one in stored)


def lost_mark(found: Domain, xml: str, label: str) -> Found:
    """Tell whether the domain lacks the mark that says whose it is."""
    wanted = mark.mark_of(xml)
    there = [mark.mark_on(found), *([mark.mark_of(found.xml())] if found.active else [])]
    others = [one for one in there if one is None or (wanted and one.instance != wanted.instance)]
    if wanted is not None and others:
        yield Difference(label, "metadata", f"the mark of {wanted.instance}", others[0] and others[0].instance)


def _passwords(found: Domain, subject: Subject, xml: str) -> Found:
    """Compare the passwords of screens, and never say one."""
    root = parse.document(xml)
    if root.find("devices/graphics[@passwd]") is None:
        return
    for where in (CONFIG, LIVE) if found.active else (CONFIG,):
        there = parse.document(found.secret_xml(stored=where == CONFIG))
        yield from (one.difference for one in definition.passwords(subject, root, there, where))


def _pools_off(request: Request) -> Iterator[int]:
    """Yield the positions of the disks whose pool is not active."""
    for position, disk in enumerate(request.spec.disks):
        pool = Pool.find(request.session, disk.pool or request.spec.pool) if disk.volume else None
        if pool is not None and not pool.active:
            yield position


def _last(request: Request) -> str:
    return str(request.record.get("declared") or "")


def subject_of(found: Network | Pool, label: str, *documents: str) -> Subject:
    """Return how the parts of a network or pool are called, in these documents and its own."""
    return Subject(found.noun, label, names(found.noun, *documents, found.xml()))


def _documents(found: Any, subject: Subject, xml: str, last: str = "") -> Found:
    """Compare the stored definition, and that of the running object; ``last``: what was declared before."""
    # The test driver stores and runs one and the same definition.
    if found.persistent and (found.session.driver != "test" or subject.kind == "domain"):
        yield from _against(subject, xml, last, found.definition(), CONFIG)
    elif not found.persistent:
        yield Difference(subject.label, "existence", "defined", "only until it is stopped", CONFIG)
    if found.active:
        yield from _against(subject, xml, last, found.xml(), LIVE)


def _against(subject: Subject, xml: str, last: str, there: str, where: str) -> Found:
    """Yield what is otherwise than declared, and what was declared before and still stands."""
    said = compare(subject, xml, there, where)
    yield from said
    if last:
        named = {one.field for one in said}
        wanted, before, found = (parse.document(text) for text in (xml, last, there))
        changes = withdrawn(subject, before, wanted, found, where)
        yield from (change.difference for change in changes if change.field not in named)


def _autostart(found: Any, request: Request, label: str) -> Found:
    wanted = bool(request.spec.autostart)
    there = found.persistent and found.autostarts
    if there != wanted:
        yield Difference(label, "autostart", wanted, there)


def _state(found: Domain, request: Request, label: str) -> Found:
    wanted = status.wanted_state(request)
    state = found.state
    if wanted and state not in (states.RUNNING if wanted == "running" else {states.State.PAUSED}):
        yield Difference(label, "state", wanted, state.name.lower())


def network(request: Request) -> Found:
    """Compare a network; reservations that others made are theirs."""
    label = f"network '{request.record.get('resource_id')}'"
    found: Network | None = look_up(Network, request)
    if found is None:
        yield Difference(label, "existence", "defined", None)
        return
    xml, last = declared.network(request), _last(request)
    yield from _documents(found, subject_of(found, label, xml, last), xml, last)
    if "cards" in (request.record.get("update_pending") or {}):
        yield Difference(label, "cards", "plugged in", "to be plugged in", LIVE)
    yield from _autostart(found, request, label)
    yield from _active(found, label)


def _active(found: Any, label: str) -> Found:
    if not found.active:
        yield Difference(label, "state", "active", "inactive")


def pool(request: Request) -> Found:
    """Compare a pool: definition, directory, whether it is active."""
    label = f"pool '{request.record.get('resource_id')}'"
    found: Pool | None = look_up(Pool, request)
    if found is None:
        yield Difference(label, "existence", "defined", None)
        return
    if found.vanished:
        yield Difference(label, "path", found.path, None)
    xml, last = declared.pool(request), _last(request)
    yield from _documents(found, subject_of(found, label, xml, last), xml, last)
    yield from _autostart(found, request, label)
    if not request.record.get("stopped"):
        yield from _active(found, label)


def volume(request: Request) -> Found:
    """Compare a volume: existence, size, format, what it stands on, access."""
    label = f"volume '{request.record.get('resource_id')}'"
    pool = Pool.find(request.session, str(request.record.get("pool")))
    if pool is None or not status.volume_exists(request, pool):
        yield Difference(label, "existence", "stored", None)
        return
    if not pool.active:
        # Said of the pool; of a volume libvirt knows nothing then.
        return
    found = Volume.get(pool, str(request.record.get("resource_id")))
    size = volumes.size_of_today(request)
    xml = declared.volume(request, found, size)
    facts = found.facts()
    if request.wanted_pool != pool.name:
        yield Difference(label, "pool", request.wanted_pool, pool.name)
    if request.spec.encryption and not facts.encrypted:
        yield Difference(label, "encryption", "luks", None)
    if request.spec.is_overlay and not facts.backing:
        yield Difference(label, "backing", "an overlay", None)
    said = compare(Subject("volume", label), xml, found.xml(), "host")
    # Whether the daemon knows the key just now is no affair of the volume.
    yield from (one for one in said if not one.field.startswith("target.encryption."))


def iso9660(request: Request) -> Found:
    """Compare an ISO image: is what the blueprint says in its volume? What came by inputs cannot be written again."""
    spec = request.draft
    label = f"image in volume '{spec.volume}' of pool '{spec.pool}'"
    found = status.image_volume(request)
    if found is None:
        yield Difference(label, "volume", spec.volume, None)
        return
    wanted = None if request.record.get("by_input") else iso_steps.image(request)
    there = status.content(found, len(wanted) if wanted else status.ISO_HEAD_BYTES)
    if wanted is not None and there != wanted:
        yield Difference(label, "files", "as in the blueprint", "other contents")
    elif not status.is_iso(there):
        yield Difference(label, "files", "an ISO 9660 image", "something else")
