"""What of a node is not as declared: the host is looked at, nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core import states
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.drift.compare import CONFIG, LIVE, Difference, Subject, compare
from cloudify_libvirt.core.errors import Missing
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, machine, parts, status
from cloudify_libvirt.steps import iso9660 as iso_steps
from cloudify_libvirt.steps import volume as volumes

Found = Iterator[Difference]


def check(request: Request, look: Callable[[Request], Found]) -> list[dict[str, Any]] | None:
    """Return all differences as JSON can hold them, or None; each is logged, too.

    What was never made, and what is not ours, is not declared.
    """
    if not status.made(request) or request.external:
        return None
    differences = list(look(declared.of_today(request)))
    for difference in differences:
        request.record.warn(f"drift: {difference}")
    return [difference.plain() for difference in differences] or None


def domain(request: Request) -> Found:
    """Compare a domain: its definitions, whether it runs, what it stands on."""
    label = f"domain '{request.record.get('resource_id')}'"
    found: Domain | None = look_up(Domain, request)
    if found is None:
        yield Difference(label, "existence", "defined", None)
        return
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
    yield from _documents(found, declared.subject(request, label, plan, xml), xml)
    yield from _parts(request, plan, label)
    yield from _autostart(found, request, label)
    yield from _state(found, request, label)
    for finding in status.reservations(request, plan):
        yield Difference(label, finding.field, finding.declared, finding.found)


def _parts(request: Request, plan: machine.Plan, label: str) -> Found:
    """Compare what was made for the domain: the size of its root, and what its seed says."""
    for part in plan.parts:
        pool = Pool.find(request.session, part.pool)
        volume = status.stored(pool, part.name) if pool is not None and pool.active else None
        if volume is None:
            # A root that is gone was said before.
            if part.kind == "seed" and pool is not None and pool.active:
                yield Difference(label, "cloud_init", "a seed", None)
            continue
        capacity, wanted = volume.facts().capacity_bytes, request.spec.image.size if request.spec.image else None
        if part.kind == "root" and wanted and capacity != wanted:
            yield Difference(label, "image.size", wanted, capacity)
        if part.kind == "seed":
            seed = parts.seed_image(request, plan)
            if status.content(volume, len(seed)) != seed:
                # What it says may be secret.
                yield Difference(label, "cloud_init", "as in the blueprint", "other contents")


def _pools_off(request: Request) -> Iterator[int]:
    """Yield the positions of the disks whose pool is not active."""
    for position, disk in enumerate(request.spec.disks):
        pool = Pool.find(request.session, disk.pool or request.spec.pool) if disk.volume else None
        if pool is not None and not pool.active:
            yield position


def _documents(found: Any, subject: Subject, xml: str) -> Found:
    """Compare the stored definition, and that of the running object."""
    # The test driver stores and runs one and the same definition.
    if found.persistent and (found.session.driver != "test" or subject.kind == "domain"):
        yield from compare(subject, xml, found.definition(), CONFIG)
    elif not found.persistent:
        yield Difference(subject.label, "existence", "defined", "only until it is stopped", CONFIG)
    if found.active:
        yield from compare(subject, xml, found.xml(), LIVE)


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
    yield from _documents(found, Subject("network", label), declared.network(request))
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
    yield from _documents(found, Subject("pool", label), declared.pool(request))
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
    if request.spec.is_overlay and not facts.backing:
        yield Difference(label, "backing", "an overlay", None)
    yield from compare(Subject("volume", label), xml, found.xml(), "host")


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
