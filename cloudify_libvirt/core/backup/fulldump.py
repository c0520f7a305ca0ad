"""A domain as a whole in files: definition, memory, and the disks as they were at that moment.

The guest stands still while its memory is saved and its disks are copied, and goes on afterwards. Memory without
the disks of the same moment would ruin a file system when it is restored.
"""

from __future__ import annotations

import json
import os
import posixpath
from dataclasses import asdict, dataclass
from pathlib import Path

from cloudify_libvirt.core.backup import checkpoint, firmware
from cloudify_libvirt.core.backup.filestore import DEFINITION, Store, on_disk
from cloudify_libvirt.core.backup.names import is_checkpoint
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import AccessDenied, Conflict, CoreError, InUse, Missing, Unsupported, libvirt_call
from cloudify_libvirt.core.parse import document
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.snapshot import snapshots as snapshot
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.snapshot.overlay import Journal
from cloudify_libvirt.core.snapshot.xml import DiskState
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.storage.bases import Wish
from cloudify_libvirt.core.volume import Volume

MEMORY, MANIFEST = "_raw", ".json"
# While a guest's memory is only in the file: what is found then must be given back to it first.
SAVING = "_raw.part"


@dataclass(frozen=True)
class Copy:
    """One disk in a dump: the file it was, and ``suffix`` of its copy."""

    target: str
    path: str
    suffix: str


@dataclass(frozen=True)
class Manifest:
    """What a dump holds; ``digests`` are SHA-256 by suffix, ``snapshots`` those that the disks' files hold.

    ``beside`` are the kinds of what it has beside its disks: the suffixes of these files.
    """

    uuid: str
    disks: tuple[Copy, ...]
    digests: dict[str, str]
    snapshots: tuple[str, ...]
    beside: tuple[str, ...] = ()

    @property
    def with_memory(self) -> bool:
        """Tell whether the guest ran."""
        return MEMORY in self.digests


def refuse_remote(session: Session, label: str) -> None:
    """Raise ``Unsupported`` where the hypervisor's files are not this machine's: libvirt has no stream for memory."""
    if not session.is_local:
        raise Unsupported(
            "dump", label, f"its memory would be written on the host of {session.uri}, not here",
            "Run cfy on that host, set full_dump to false, or use an external snapshot or a backup of the disks.",
        )  # fmt: skip


def definition(domain: Domain) -> str:
    """Return the stored definition with its passwords: for a file that only we can read."""
    return domain.xml(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)


def dump(domain: Domain, store: Store) -> None:
    """Write definition, memory (of a running guest) and disks; the guest goes on, also after a failure."""
    refuse_remote(domain.session, domain.target)
    snapshot.refuse_drivers(domain, "dump")
    resume(domain, store)
    _refuse_elsewhere(domain, store)
    disks = _checked_disks(domain)
    stored = definition(domain)
    store.remove()
    store.prepare()
    saved = domain.state not in OFF
    if saved:
        with libvirt_call("save the memory of", domain.target, "Is there room in backup_dir?"):
            domain.handle.saveFlags(str(store.path(SAVING)), None, 0)
    try:
        copies = tuple(_copy(domain.session, disk, store) for disk in disks)
        beside = _beside(domain, store)
    except CoreError:
        resume(domain, store)
        store.remove()
        raise
    resume(domain, store, keep=True)
    suffixes = [copy.suffix for copy in copies] + ([MEMORY] if saved else []) + [f"_{kind}" for kind in beside]
    digests = {suffix: store.digest(suffix) for suffix in suffixes}
    names = tuple(one.name for one in snapshot.listed(domain))
    store.write(MANIFEST, json.dumps(asdict(Manifest(domain.uuid, copies, digests, names, beside)), indent=1))
    store.write(DEFINITION, stored)


def resume(domain: Domain, store: Store, *, keep: bool = False) -> None:
    """Give a guest the memory back that only our file holds, and drop the file, or ``keep`` it as the dump's.

    Raises:
        Busy: the memory is still being written.
        Conflict: the disks are newer than the memory.
    """
    part = store.path(SAVING)
    snapshot.refuse_job(domain, "dump")
    if not part.exists():
        return
    if domain.state in OFF:
        _check_age(domain, part)
        with libvirt_call("let go on", domain.target, f"Its memory is in {part}: virsh restore it."):
            domain.session.connection.restoreFlags(str(part), None, 0)
    with on_disk("keep", f"file {part}"):
        if keep:
            part.replace(store.path(MEMORY))
        else:
            part.unlink()


def _check_age(domain: Domain, part: Path) -> None:
    """Refuse memory that is older than a disk: what the guest wrote since would be ruined by it."""
    changed = _newer(domain, part)
    if changed:
        reason = f"disk {changed} changed since an attempt that was cut off saved the guest's memory to {part}"
        raise Conflict("let go on", domain.target, reason, f"Remove {part}, which is of no use any more.")


def _newer(domain: Domain, part: Path) -> str:
    """Return the first disk that was written to after the memory was, or ""."""
    for disk in _checked_disks(domain):
        with on_disk("look at", f"disk {disk.path}"):
            if Path(disk.path).stat().st_mtime_ns > part.stat().st_mtime_ns:
                return disk.target
    return ""


def _refuse_elsewhere(domain: Domain, store: Store) -> None:
    """Refuse a guest that is off because a dump of another name was cut off: its memory waits there."""
    if domain.state not in OFF:
        return
    for part in store.others(SAVING):
        if not _newer(domain, part):
            reason = f"its memory is in {part}, where an attempt that was cut off left it"
            raise Conflict("dump", domain.target, reason, f"Repeat that one, or: virsh restore {part}")


def _checked_disks(domain: Domain) -> list[DiskState]:
    """Return the disks that a guest can write; refuse those that cannot be copied."""
    found = [disk for disk in snapshot.disks_of(domain) if disk.kind != "empty" and not disk.readonly]
    found = [disk for disk in found if disk.device in ("disk", "lun")]
    for disk in found:
        if disk.kind not in ("file", "volume"):
            reason = f"disk {disk.target} is of type {disk.kind}, which is not copied"
            raise Unsupported("dump", domain.target, reason, "Set full_dump to false.")
    _refuse_external(domain)
    return found


def _refuse_external(domain: Domain) -> None:
    outside = [one.name for one in snapshot.listed(domain) if one.overlays]
    if outside:
        reason = f"it has external snapshots ({', '.join(outside)}): its disks are several files each"
        raise Conflict("dump", domain.target, reason, "Delete these snapshots first.")


def _copy(session: Session, disk: DiskState, store: Store) -> Copy:
    copy = Copy(disk.target, disk.path, f"_{disk.target}.disk")
    directory, name = posixpath.split(disk.path)
    with overlay.pool_at(session, directory) as pool:
        Volume.get(pool, name).download(store.path(copy.suffix))
    return copy


def _beside(domain: Domain, store: Store) -> tuple[str, ...]:
    """Copy NVRAM and TPM state while the guest stands still; return their kinds."""
    kinds = []
    for one in firmware.of(domain):
        data = firmware.content(domain.session, one)
        if data is not None:
            store.write(f"_{one.kind}", data)
            kinds.append(one.kind)
    return tuple(kinds)


def manifest(store: Store) -> Manifest | None:
    """Return what a dump holds; None of a backup that is a definition alone."""
    if not store.path(MANIFEST).exists():
        return None
    told = json.loads(store.read(MANIFEST))
    disks = tuple(Copy(**disk) for disk in told["disks"])
    return Manifest(told["uuid"], disks, told["digests"], tuple(told["snapshots"]), tuple(told.get("beside", ())))


def verify(session: Session, store: Store, held: Manifest) -> None:
    """Raise when a file of the dump is gone, changed, or no memory that the hypervisor can read."""
    for suffix, digest in held.digests.items():
        if not store.path(suffix).is_file():
            raise Missing("restore", store.label, f"file {store.path(suffix).name} is gone", "Use another backup.")
        if store.digest(suffix) != digest:
            reason = f"file {store.path(suffix).name} is not what was written (SHA-256)"
            raise CoreError("restore", store.label, reason, "Use another backup; nothing was touched.")
    if held.with_memory:
        with libvirt_call("read the memory of", store.label, "Use another backup; nothing was touched."):
            session.connection.saveImageGetXMLDesc(str(store.path(MEMORY)), 0)


def check(session: Session, found: Domain | None, store: Store, held: Manifest) -> None:
    """Raise where ``restore`` would refuse; nothing is touched."""
    refuse_remote(session, store.label)
    verify(session, store, held)
    if found is not None:
        _check_state(found, store, held)


def restore(session: Session, found: Domain | None, store: Store, held: Manifest, journal: Journal) -> Domain:
    """Bring definition, disks and memory back; everything new is there before the old is given up.

    Raises:
        Conflict: the domain has snapshots or checkpoints that would be wrong then.
        AccessDenied: the disks' directory cannot be written here.
    """
    check(session, found, store, held)
    fresh = {copy.path: _fresh(session, copy, store, held, journal) for copy in held.disks}
    if found is not None:
        found.destroy()
        snapshot.drop_saved_state(found)
        checkpoint.drop_ours(found, disks_go=True)
    for path, new in fresh.items():
        with on_disk("put back", f"disk {path}"):
            Path(new).replace(path)
        journal.drop(new)
        with overlay.pool_at(session, posixpath.dirname(path)):
            pass
    domain = Domain.define(session, store.read(DEFINITION), store.name, held.uuid)
    # The copies have the bitmaps that the disks had.
    checkpoint.drop_ours(domain)
    for one in firmware.of(domain):
        if one.kind in held.beside:
            firmware.put(session, one, store.path(f"_{one.kind}").read_bytes())
    if held.with_memory:
        with libvirt_call("restore the memory of", domain.target, "Its disks are restored; start it without memory."):
            session.connection.restoreFlags(str(store.path(MEMORY)), None, 0)
    return domain


def _check_state(domain: Domain, store: Store, held: Manifest) -> None:
    later = [one.name for one in snapshot.listed(domain) if one.name not in held.snapshots or one.overlays]
    later += [name for name in sorted(checkpoint.names(domain)) if not is_checkpoint(name)]
    if later:
        reason = f"{domain.target} has snapshots or checkpoints made since: {', '.join(later)}"
        raise Conflict("restore", store.label, reason, "Delete them first.")


def _fresh(session: Session, copy: Copy, store: Store, held: Manifest, journal: Journal) -> str:
    """Upload a disk beside the one that it will replace; return its path."""
    directory, name = posixpath.split(copy.path)
    if not Path(directory).is_dir():
        raise Missing("restore", store.label, f"directory {directory} is gone", "Make it, or its pool, first.")
    source = store.path(copy.suffix)
    with overlay.pool_at(session, directory) as pool:
        old = Volume.find(pool, name)
        users = old.users(held.uuid) if old else []
        if users:
            raise InUse("restore", store.label, f"disk {copy.path} is used by {users[0]}", "Remove its user first.")
        if not os.access(directory, os.W_OK):
            raise AccessDenied("restore", store.label, f"we cannot write to {directory}", "Run cfy as root.")
        new = posixpath.join(directory, f"{name}@restoring")
        journal.add(new)
        left = Volume.find(pool, posixpath.basename(new))
        if left is not None:
            left.delete()
        size = source.stat().st_size
        wish = Wish(posixpath.basename(new), size, "raw")
        Volume.create(pool, wish.xml(size), wish.name).upload(source)
    return new


def check_definition(text: str, uuid: str, label: str) -> None:
    """Raise ``Conflict`` when a saved definition is of another object than the one with that UUID."""
    told = str(document(text).findtext("uuid") or "").strip()
    if told and uuid and told != uuid:
        reason = f"it is of another object (UUID {told}, not {uuid})"
        raise Conflict("restore", label, reason, "Choose the backup of this object.")


def check_disks(domain: Domain | None, session: Session, text: str, label: str) -> None:
    """Refuse a definition whose disks are gone, or are frozen below external snapshots."""
    frozen = _frozen(domain) if domain is not None else {}
    for disk in snapshot_xml.disks(text):
        if disk.path in frozen:
            reason = f"disk {disk.target} ({disk.path}) stands below snapshot '{frozen[disk.path]}' now"
            raise Conflict("restore", label, reason, "Delete that snapshot first.")
        if disk.kind == "file" and not overlay.exists(session, disk.path):
            reason = f"disk {disk.target} ({disk.path}) is gone, and its content is not in this backup"
            raise Missing("restore", label, reason, "Restore the disk first, or a backup with full_dump.")


def _frozen(domain: Domain) -> dict[str, str]:
    if domain.session.driver in ("lxc", "test"):
        return {}
    present = {disk.path for disk in snapshot.disks_of(domain)}
    return {
        one.sources[target]: one.name
        for one in snapshot.listed(domain)
        for target in one.overlays
        if one.sources.get(target) and one.sources[target] not in present
    }
