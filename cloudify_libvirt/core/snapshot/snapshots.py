"""Snapshots of domains: made, listed, gone back to, deleted.

libvirt 9 makes external snapshots, but neither goes back to them nor deletes their files: both is done here,
in snapshot_revert and below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace

from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import (
    Busy,
    Conflict,
    CoreError,
    InvalidTemplate,
    Missing,
    Unsupported,
    libvirt_call,
)
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.snapshot.overlay import NO_JOURNAL, Journal
from cloudify_libvirt.core.snapshot.plan import Plan, Wish, plan
from cloudify_libvirt.core.snapshot.xml import DiskState, SnapshotFacts
from cloudify_libvirt.core.states import OFF, RUNNING
from cloudify_libvirt.core.volume import Volume

SCHEMA = "domainsnapshot"
TEMPLATE = "snapshot.xml.j2"
# Drivers without snapshots, whose own words for it name only a function.
_WITHOUT = frozenset({"lxc", "xen", "bhyve"})

WriteXml = Callable[[Plan], str]


def refuse_drivers(domain: Domain, action: str) -> None:
    """Raise ``Unsupported`` where the driver has no snapshots."""
    driver = domain.session.driver
    if driver in _WITHOUT:
        what = "containers have no snapshots" if driver == "lxc" else f"the driver {driver} has no snapshots"
        raise Unsupported(action, domain.target, f"{what} in libvirt", "Make a backup of its files instead.")


def refuse_job(domain: Domain, action: str) -> None:
    """Raise ``Busy`` while libvirt saves or copies the domain: it goes on when who asked for it is killed."""
    if domain.session.driver != "qemu" or domain.state in OFF:
        return
    with libvirt_call("read the job of", domain.target):
        kind = domain.handle.jobInfo()[0]
    if kind != libvirt.VIR_DOMAIN_JOB_NONE:
        remedy = f"Let it end; to see it: virsh domjobinfo {domain.name}"
        raise Busy(action, domain.target, "a job of libvirt works on it", remedy)


def listed(domain: Domain) -> list[SnapshotFacts]:
    """Return the snapshots, parents before children, older ones first, those of one second by name."""
    refuse_drivers(domain, "list the snapshots of")
    with libvirt_call("list the snapshots of", domain.target):
        texts = [handle.getXMLDesc(0) for handle in domain.handle.listAllSnapshots(0)]
    left = sorted((_facts(domain, text) for text in texts), key=lambda one: (one.created, one.name))
    found: list[SnapshotFacts] = []
    while left:
        known = {one.name for one in found}
        ready = [one for one in left if not one.parent or one.parent in known]
        found += ready or left
        left = [one for one in left if one not in found]
    return found


def current(domain: Domain) -> str:
    """Return the name of the snapshot that the present state comes from, or ""."""
    with libvirt_call("read the current snapshot of", domain.target):
        return domain.handle.snapshotCurrent(0).getName() if domain.handle.hasCurrentSnapshot(0) else ""


def find(domain: Domain, name: str) -> SnapshotFacts | None:
    """Return the snapshot with that name, or None."""
    refuse_drivers(domain, "read the snapshots of")
    try:
        with libvirt_call("look up", label(domain, name)):
            text = domain.handle.snapshotLookupByName(name, 0).getXMLDesc(0)
    except Missing:
        return None
    return _facts(domain, text)


def _facts(domain: Domain, text: str) -> SnapshotFacts:
    """Read one, with the paths of disks that are volumes of pools, as far as these can be seen."""
    one = snapshot_xml.facts(text)
    paths = dict(one.sources)
    for target, (pool, volume) in one.volumes.items():
        with suppress(CoreError):
            paths[target] = Volume.get(Pool.get(domain.session, pool), volume).path
    return replace(one, sources=paths) if one.volumes else one


def require_sources(domain: Domain, one: SnapshotFacts, action: str) -> None:
    """Raise ``Missing`` where nobody can tell on which file one of its overlays stands."""
    for target in sorted(one.overlays.keys() - one.sources.keys()):
        pool, volume = one.volumes.get(target, ("", ""))
        reason = f"its disk {target} was volume '{volume}' of pool '{pool}', which is gone, or whose pool is off"
        if not volume:
            reason = f"its disk {target} was in no file"
        raise Missing(action, label(domain, one.name), reason, "Start the pool, or restore a backup instead.")


def get(domain: Domain, name: str, action: str = "find") -> SnapshotFacts:
    """Return the snapshot with that name; raise ``Missing`` when there is none."""
    found = find(domain, name)
    if found is None:
        names = ", ".join(one.name for one in listed(domain)) or "none"
        raise Missing(action, label(domain, name), "it does not exist", f"There is: {names}.")
    return found


def label(domain: Domain, name: str) -> str:
    """Return how messages call a snapshot."""
    return f"snapshot '{name}' of {domain.target}"


def disks_of(domain: Domain) -> list[DiskState]:
    """Return the domain's disks, volumes of pools with their paths."""
    return [_with_path(domain, disk) for disk in snapshot_xml.disks(domain.xml())]


def _with_path(domain: Domain, disk: DiskState) -> DiskState:
    if disk.kind != "volume" or disk.path:
        return disk
    path = Volume.get(Pool.get(domain.session, disk.pool), disk.volume).path
    return DiskState(**{**asdict(disk), "path": path})


def planned(domain: Domain, wish: Wish) -> Plan:
    """Return what a snapshot would be made of; nothing is made."""
    refuse_drivers(domain, "snapshot")
    root = domain.xml()
    return plan(
        wish, disks_of(domain), domain.target, running=domain.state not in OFF,
        agent=domain.state in RUNNING and domain.facts().agent_connected, pflash="type='pflash'" in root,
    )  # fmt: skip


def packaged(wish: Wish, plan: Plan) -> str:
    """Return the snapshot's document by the packaged template."""
    return render(TemplateSource(name=TEMPLATE), variables(wish, plan), schema=SCHEMA, node=wish.name)


def variables(wish: Wish, plan: Plan) -> dict[str, object]:
    """Return what the template of a snapshot sees."""
    return {
        "snapshot_name": wish.name,
        "snapshot_description": wish.description,
        "snapshot_memory": plan.memory,
        "snapshot_memory_file": plan.memory_file,
        "snapshot_disks": [asdict(disk) for disk in plan.disks],
    }


def create(domain: Domain, wish: Wish, journal: Journal = NO_JOURNAL, write_xml: WriteXml | None = None) -> str:
    """Make a snapshot, whole or not at all; return in words what it is made of.

    One of this name whose files the stored definition does not explain yet, as after a failure, is completed.

    Raises:
        Busy: it is being saved or backed up, perhaps for an attempt that was cut off.
        Conflict: there is one of that name.
        Unsupported: these disks cannot have it.
    """
    refuse_drivers(domain, "snapshot")
    refuse_job(domain, "snapshot")
    there = find(domain, wish.name)
    if there is not None:
        if there.overlays and _complete(domain, wish.name):
            return "there already, and completed now"
        remedy = "Choose another name, or delete it first."
        raise Conflict("make", label(domain, wish.name), "there is one of this name", remedy)
    drafted = planned(domain, wish)
    try:
        made = _with_files(domain, wish, drafted, journal)
        xml = write_xml(made) if write_xml else packaged(wish, made)
        if snapshot_xml.facts(xml).name != wish.name:
            reason = f"its name would be '{snapshot_xml.facts(xml).name}'"
            raise InvalidTemplate("make", label(domain, wish.name), reason, "Leave <name> to snapshot_name.")
        frozen = _take(domain, wish, made, xml)
    except CoreError:
        # What cannot be removed now is in the journal, and goes with the domain.
        with suppress(CoreError):
            sweep(domain, journal)
        raise
    if any(disk.file and disk.secret for disk in made.disks):
        _complete(domain, wish.name)
    return _described(made, frozen)


def _with_files(domain: Domain, wish: Wish, drafted: Plan, journal: Journal) -> Plan:
    """Make the empty overlays that an external snapshot continues in."""
    if drafted.kind != "external":
        return drafted
    owner = overlay.Owner(domain.uuid, wish.name, frozenset(needed(domain)))
    chosen = [disk for disk in drafted.disks if disk.mode == "external"]
    overlays = {
        disk.target: overlay.make(domain.session, disk.below, disk.format, owner, journal, disk.secret)
        for disk in chosen
    }  # fmt: skip
    memory = ""
    if drafted.memory == "external":
        memory = overlay.memory_path(chosen[0].below, domain.name, wish.name)
        if overlay.exists(domain.session, memory):
            if memory not in set(journal.known()):
                raise Conflict("make", label(domain, wish.name), f"file {memory} exists", "Choose another name.")
            overlay.remove(domain.session, memory, domain.uuid)
        journal.add(memory)
    return drafted.placed(overlays, memory)


def _take(domain: Domain, wish: Wish, plan: Plan, xml: str) -> bool:
    """Ask libvirt for the snapshot; return whether the file systems were frozen."""
    flags = int(libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)
    if plan.kind == "external":
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        flags |= _memory_flag(domain, plan)
    if domain.session.driver == "test":
        flags = 0
    if plan.quiesce:
        try:
            _ask(domain, wish.name, xml, flags | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE)
            return True
        except CoreError:
            # An agent that was there may hang, or lack the command; libvirt thaws what it froze.
            if plan.quiesce_wanted or find(domain, wish.name) is not None:
                raise
    _ask(domain, wish.name, xml, flags)
    return False


def _complete(domain: Domain, name: str) -> bool:
    """Do what ``name_below`` does; a failure says that the snapshot is there all the same."""
    try:
        return name_below(domain, name)
    except CoreError as error:
        told = "It was made, but the guest finds no key at its next start: make it once more, which completes it."
        remedy = f"{error.remedy} {told}".strip()
        raise type(error)(
            "note the files below", label(domain, name), error.reason, remedy, retryable=error.retryable
        ) from error.__cause__


def name_below(domain: Domain, name: str) -> bool:
    """Have the stored definition say what encrypted overlays of a snapshot stand on, with the keys; False if it does.

    Of a guest that is off libvirt notes the overlay alone, and the next start would find no key for what is below.
    """
    with libvirt_call("read", label(domain, name)):
        handle = domain.handle.snapshotLookupByName(name, 0)
        text = str(handle.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE))
    xml = snapshot_xml.with_below(domain.secret_xml(stored=True), text)
    if xml:
        Domain.define(domain.session, xml, domain.name, domain.uuid)
    return bool(xml)


def complete(domain: Domain) -> bool:
    """Do what ``name_below`` does for every snapshot, as one that was cut off may lack it; tell whether any did."""
    if domain.session.driver in _WITHOUT:
        return False
    done = [name_below(domain, one.name) for one in listed(domain) if one.overlays]
    return any(done)


def _memory_flag(domain: Domain, plan: Plan) -> int:
    if plan.memory != "external":
        return int(libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    # The guest goes on while its memory is written.
    return int(libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_LIVE) if domain.state in RUNNING else 0


def _ask(domain: Domain, name: str, xml: str, flags: int) -> None:
    try:
        with libvirt_call("make", label(domain, name)):
            domain.handle.snapshotCreateXML(xml, flags)
    except CoreError as error:
        if "writing VM state" not in error.reason:
            raise
        # QEMU says no more of a full disk; the memory goes into the file of the first disk.
        remedy = "Is there room in the pools of its disks?"
        told = CoreError("make", label(domain, name), error.reason, remedy, retryable=error.retryable)
        raise told from error.__cause__


def _described(plan: Plan, frozen: bool) -> str:
    taken = [disk.target for disk in plan.disks if disk.mode != "no"]
    left = [disk.target for disk in plan.disks if disk.mode == "no"]
    words = [f"{plan.kind} of {', '.join(taken)}"]
    words += ["with memory"] if plan.memory in ("internal", "external") else []
    words += ["file systems frozen"] if frozen else []
    return ", ".join(words) + (f" (without {', '.join(left)})" if left else "")


def needed(domain: Domain) -> set[str]:
    """Return every file that the domain or one of its snapshots stands on."""
    paths = {disk.path for disk in disks_of(domain) if disk.path}
    inactive = domain.definition()
    paths |= {disk.path for disk in snapshot_xml.disks(inactive) if disk.path}
    snapshots = [] if domain.session.driver in _WITHOUT else listed(domain)
    for one in snapshots:
        paths |= {*one.sources.values(), *([one.memory_file] if one.memory_file else [])}
    below = [path for start in sorted(paths) if overlay.is_ours(start) and start.endswith(".qcow2")
             for path in overlay.chain(domain.session, start)]  # fmt: skip
    return paths | set(below)


def sweep(domain: Domain, journal: Journal, besides: Iterable[str] = (), keep: Iterable[str] = ()) -> None:
    """Remove our files that nothing needs any more: those of the journal, and ``besides`` if named by our scheme.

    What is in ``keep`` will be needed in a moment.
    """
    wanted = needed(domain) | set(keep)
    known = set(journal.known())
    candidates = {*known, *filter(overlay.is_ours, besides)} - wanted
    failed = dict(overlay.remove_all(domain.session, sorted(candidates), domain.uuid))
    for path in sorted((candidates & known) - failed.keys()):
        journal.drop(path)
    for error in failed.values():
        raise error


def files(domain: Domain) -> list[str]:
    """Return the files of our scheme that the domain or its snapshots refer to."""
    if domain.session.driver in _WITHOUT:
        return []
    present = [disk.path for disk in snapshot_xml.disks(domain.definition())]
    every = [*present, *(path for one in listed(domain) for path in (*one.files, *one.sources.values()))]
    return sorted({path for path in every if path and overlay.is_ours(path)})


def allocation(domain: Domain, one: SnapshotFacts) -> int | None:
    """Return the bytes of the files that came with it; None of an internal one, which libvirt does not tell."""
    if not one.external:
        return None
    total = 0
    for path in one.files:
        directory, _, name = path.rpartition("/")
        with overlay.pool_at(domain.session, directory) as pool:
            volume = Volume.find(pool, name)
            total += volume.facts().allocation_bytes if volume else 0
    return total


def is_saved(domain: Domain) -> bool:
    """Tell whether a managed save holds the guest's memory."""
    with libvirt_call("read", domain.target):
        return bool(domain.handle.hasManagedSaveImage(0))


def drop_saved_state(domain: Domain) -> None:
    """Drop a managed save: its memory is of the state that is given up."""
    if is_saved(domain):
        with libvirt_call("drop the saved state of", domain.target):
            domain.handle.managedSaveRemove(0)
