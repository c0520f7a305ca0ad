"""A domain brought back to a snapshot, or refused with the reason while it is still untouched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cloudify_libvirt.core.backup import checkpoint
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, Missing, Unsupported, libvirt_call
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.snapshot.delete import check_sources
from cloudify_libvirt.core.snapshot.overlay import NO_JOURNAL, Journal
from cloudify_libvirt.core.snapshot.snapshots import (
    disks_of,
    drop_saved_state,
    get,
    label,
    needed,
    require_sources,
    sweep,
)
from cloudify_libvirt.core.snapshot.xml import SnapshotFacts
from cloudify_libvirt.core.states import OFF


def revert(domain: Domain, name: str, journal: Journal = NO_JOURNAL, *, was_off: bool | None = None) -> list[str]:
    """Bring disks, definition and memory back to the snapshot; what was written since is lost.

    With the memory the guest goes on where it was. Without, it is off afterwards; after a snapshot of a running
    guest's disks alone it is started if it was on. ``was_off`` says how it was before an attempt that was cut off.

    Our checkpoints go before, as no increment after it would be right: the next backup is a full one. Return their
    names.

    Raises:
        Missing: there is no such snapshot, or one of its files is gone.
        Conflict, Unsupported: it cannot work, and nothing was touched.
    """
    one = get(domain, name, "go back to")
    off = domain.state in OFF if was_off is None else was_off
    check(domain, one)
    with _telling_what_went(domain):
        dropped = checkpoint.drop_ours(domain)
        if one.external:
            _to_files(domain, one, journal, off)
            return dropped
        with libvirt_call("go back to", label(domain, name)):
            domain.handle.revertToSnapshot(domain.handle.snapshotLookupByName(name, 0), 0)
    domain.session.changed.set()
    return dropped


@contextmanager
def _telling_what_went(domain: Domain) -> Iterator[None]:
    """Let an error say which checkpoints are gone all the same: backups begin anew without them."""
    mine = checkpoint.ours(domain)
    try:
        yield
    except CoreError as error:
        went = mine - _left(domain)
        if not went:
            raise
        told = f"Checkpoints went before: a backup that would stand on {', '.join(sorted(went))} is a full one."
        remedy = f"{error.remedy} {told}".strip()
        raise type(error)(
            error.action, error.target, error.reason, remedy, retryable=error.retryable
        ) from error.__cause__


def _left(domain: Domain) -> set[str]:
    try:
        return checkpoint.ours(domain)
    except CoreError:
        # The connection went: they may be gone, too.
        return set()


def check(domain: Domain, one: SnapshotFacts) -> None:
    """Refuse what the hypervisor would fail at half-way; nothing is touched."""
    require_sources(domain, one, "go back to")
    checkpoint.refuse_revert(domain, label(domain, one.name), internal=not one.external)
    if not one.external:
        check_sources(domain, one, "go back to")
        _check_cpus(domain, one)
        return
    for path in [*(one.sources[target] for target in one.overlays), *([one.memory_file] if one.memory_file else [])]:
        if not overlay.exists(domain.session, path):
            reason = f"its file {path} is gone, or cannot be seen"
            raise Missing("go back to", label(domain, one.name), reason, "Restore a backup instead.")
    if one.memory_file:
        _memory_xml(domain, one)


def _check_cpus(domain: Domain, one: SnapshotFacts) -> None:
    """Refuse a memory with CPUs that were plugged in: QEMU loads it before libvirt plugs them in again."""
    if one.memory == "internal" and one.hotplugged_cpus:
        reason = "its memory was saved with CPUs that had been plugged in, and no new start has these"
        remedy = "Use an external snapshot after a hotplug of CPUs, or snapshot before it."
        raise Unsupported("go back to", label(domain, one.name), reason, remedy)


def _memory_xml(domain: Domain, one: SnapshotFacts) -> str:
    with libvirt_call("read the memory of", label(domain, one.name), "Restore a backup instead."):
        flags = libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE
        return str(domain.session.connection.saveImageGetXMLDesc(one.memory_file, flags))


def _to_files(domain: Domain, one: SnapshotFacts, journal: Journal, off: bool) -> None:
    """Put fresh overlays on the snapshot's files, and start from its memory where it has one."""
    owner = overlay.Owner(domain.uuid, one.name, frozenset(needed(domain)))
    before = [disk.path for disk in disks_of(domain) if disk.path]
    handle = domain.handle.snapshotLookupByName(one.name, 0)
    with libvirt_call("read", label(domain, one.name)):
        text = str(handle.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE))
    stored, memory = snapshot_xml.saved_domain(text), _memory_xml(domain, one) if one.memory_file else ""
    # Of disks that only the running guest had, the stored definition knows nothing.
    comes = {disk.target for xml in (stored, memory) if xml for disk in snapshot_xml.disks(xml)}
    fresh = {
        target: overlay.make(
            domain.session, one.sources[target], one.formats[target], owner, journal, one.secrets[target]
        )
        for target in one.overlays if target in comes
    }  # fmt: skip
    memory = snapshot_xml.with_sources(memory, fresh) if memory else ""
    domain.destroy()
    drop_saved_state(domain)
    Domain.define(domain.session, snapshot_xml.with_sources(stored, fresh), domain.name, domain.uuid)
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
    with libvirt_call("go back to", label(domain, one.name)):
        domain.handle.snapshotCreateXML(text, flags)
    sweep(domain, journal, before, keep=fresh.values() if memory else ())
    if memory:
        with libvirt_call("go back to the memory of", label(domain, one.name)):
            domain.session.connection.restoreFlags(one.memory_file, memory, 0)
    elif one.state == "disk-snapshot" and not off:
        domain.start()
