"""Snapshots deleted: the present state stays, and no file is left that nothing needs."""

from __future__ import annotations

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Conflict, InUse, libvirt_call
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.snapshot.merge import awake, merge
from cloudify_libvirt.core.snapshot.overlay import NO_JOURNAL, Journal
from cloudify_libvirt.core.snapshot.snapshots import current, disks_of, get, label, listed, require_sources, sweep
from cloudify_libvirt.core.snapshot.xml import SnapshotFacts
from cloudify_libvirt.core.states import OFF


def delete(
    domain: Domain, name: str, journal: Journal = NO_JOURNAL, *, children: bool = False, keep_below: bool = False,
    was_off: bool | None = None,
) -> None:  # fmt: skip
    """Delete a snapshot; the present state stays, and overlays that nothing else needs are merged and removed.

    With ``children`` all below it goes, too; with ``keep_below`` they stay, as children of its parent.
    ``was_off`` says how it was before an attempt that was cut off.

    Raises:
        InUse: it has children, or somebody else uses its files.
    """
    every = listed(domain)
    chosen = get(domain, name, "delete")
    below = _below(every, name)
    if below and not children and not keep_below:
        names = ", ".join(one.name for one in below)
        raise InUse("delete", label(domain, name), f"it has children: {names}", "Delete them first, or ask for all.")
    off = domain.state in OFF if was_off is None else was_off
    for one in [*(reversed(below) if children else []), chosen]:
        _delete_one(domain, one, journal, off)


def _below(every: list[SnapshotFacts], name: str) -> list[SnapshotFacts]:
    """Return all descendants, parents first."""
    names = {name}
    found = []
    for one in every:
        if one.parent in names:
            names.add(one.name)
            found.append(one)
    return found


def _delete_one(domain: Domain, one: SnapshotFacts, journal: Journal, off: bool) -> None:
    require_sources(domain, one, "delete")
    present = [disk.path for disk in disks_of(domain) if disk.path]
    if not one.external:
        check_sources(domain, one, "delete")
        with libvirt_call("delete", label(domain, one.name)):
            domain.handle.snapshotLookupByName(one.name, 0).delete(0)
        return
    _merge(domain, one, off)
    with libvirt_call("delete", label(domain, one.name)):
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY
        domain.handle.snapshotLookupByName(one.name, 0).delete(flags)
    sweep(domain, journal, [*one.files, *one.sources.values(), *present])


def check_sources(domain: Domain, one: SnapshotFacts, action: str) -> None:
    """Raise ``Conflict`` when the disks that hold an internal snapshot are not the domain's present ones."""
    present = {disk.target: disk.path for disk in disks_of(domain)}
    for target in one.internal:
        was, now = one.sources.get(target, ""), present.get(target, "")
        if was and was != now:
            later = [other.name for other in listed(domain) if other.overlays.get(target) == now]
            reason = f"disk {target} was {was}, and is {now or 'gone'} now"
            remedy = f"Delete snapshot {later[0]} first." if later else "Give it back its disk first."
            raise Conflict(action, label(domain, one.name), reason, remedy)


def _merge(domain: Domain, one: SnapshotFacts, off: bool) -> None:
    """Write each overlay of the present state that stands on this snapshot's files into them."""
    others = [other for other in listed(domain) if other.name != one.name]
    jobs = []
    for disk in disks_of(domain):
        base = one.sources.get(disk.target, "")
        if disk.target not in one.overlays or any(_freezes(other, disk.target, base) for other in others):
            continue
        chain = overlay.chain(domain.session, disk.path)
        if base in chain[1:]:
            jobs.append((disk.target, chain[chain.index(base) - 1], base))
    for target, top, base in jobs:
        _check_lone(domain, one, target, top, base)
        _check_holds_none(domain, one, others, top)
    if jobs or (off and domain.state not in OFF):
        with awake(domain, was_off=off):
            for target, top, base in jobs:
                merge(domain, target, top, base)
    gone = {top: (base, one.formats[target]) for target, top, base in jobs}
    for other in others:
        _redefine(domain, other.name, gone)


def _freezes(other: SnapshotFacts, target: str, path: str) -> bool:
    return target in other.overlays and other.sources.get(target) == path


def _check_holds_none(domain: Domain, one: SnapshotFacts, others: list[SnapshotFacts], top: str) -> None:
    """Refuse to give up a file that internal snapshots are in."""
    held = [other.name for other in others for target in other.internal if other.sources.get(target) == top]
    if held:
        reason = f"its file {top} holds snapshot {', '.join(held)}"
        raise InUse("delete", label(domain, one.name), reason, "Delete that first.")


def _check_lone(domain: Domain, one: SnapshotFacts, target: str, top: str, base: str) -> None:
    """Refuse to write into a file that somebody else's overlay stands on."""
    own = {f"volume '{top.rpartition('/')[2]}'"}
    strangers = [
        user for user in overlay.users(domain.session, base, domain.uuid) if user.split(" of pool")[0] not in own
    ]
    if strangers:
        reason = f"{base} of disk {target} is used by {', '.join(strangers[:5])}"
        raise InUse("delete", label(domain, one.name), reason, "Remove its users first.")


def _redefine(domain: Domain, name: str, gone: dict[str, tuple[str, str]]) -> None:
    with libvirt_call("move the files of", label(domain, name)):
        handle = domain.handle.snapshotLookupByName(name, 0)
        xml = snapshot_xml.moved(handle.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE), gone)
    if not xml:
        return
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
    if name == current(domain):
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
    with libvirt_call("move the files of", label(domain, name)):
        domain.handle.snapshotCreateXML(xml, flags)
