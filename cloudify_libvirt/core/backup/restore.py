"""From a point back to disks: of the domain it was made of, or of a new one."""

from __future__ import annotations

import functools
import posixpath
import uuid as uuids
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cloudify_libvirt.core.backup import chain, checkpoint, firmware, images, job, seeds, staging
from cloudify_libvirt.core.backup.create import Hooks
from cloudify_libvirt.core.backup.definition import RestoredDisk, alone, another, macs
from cloudify_libvirt.core.backup.keeping import held
from cloudify_libvirt.core.backup.manifest import DEFINITION, BesideEntry, DiskEntry, Manifest
from cloudify_libvirt.core.backup.store import Store
from cloudify_libvirt.core.backup.verify import require_sound
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Conflict, CoreError, InUse, Missing, Unsupported
from cloudify_libvirt.core.identity import NAMESPACE
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.snapshot import snapshots as snapshot
from cloudify_libvirt.core.snapshot.xml import DiskState
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage import formats
from cloudify_libvirt.core.storage.bases import Wish
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.volume import Volume


@dataclass(frozen=True)
class Restored:
    """What was done: ``lacking`` is what the point does not have, ``was_running`` that the guest was stopped for it."""

    point: str
    domain: str
    uuid: str
    disks: tuple[str, ...]
    lacking: tuple[str, ...] = ()
    was_running: bool = False


@dataclass(frozen=True)
class _Swap:
    """One disk of the domain: where it is, what is there now (None: nothing), what comes."""

    entry: DiskEntry
    state: DiskState
    pool: Pool
    old: Volume | None
    incoming: list[Volume] = field(default_factory=list)


def restore(
    domain: Domain, store: Store, point: str, hooks: Hooks, *, allow_stop: bool = False, stop_timeout_s: float = 60.0
) -> Restored:
    """Put a domain's disks back to a point ("": the newest); it is off afterwards, its next backup is a full one.

    The disks have the names that they had. Those that are replaced go when all new ones are on the host, whole.

    Raises:
        BackupBroken: the point, or one that it stands on, is damaged; nothing was changed.
        InUse: the domain runs and may not be stopped, has snapshots, or another one uses a disk.
    """
    with held(domain, store):
        points, _damaged = store.manifests()
        manifest = chain.get(points, point, store.label)
        require_sound(store, points, manifest.point, hooks.progress)
        _refuse_foreign(domain, store, manifest)
        swaps = _swaps(domain, manifest)
        _refuse_alive(domain, allow_stop)
        staging.sweep(domain.session, staging.RESTORE, domain.uuid)
        store.sweep_scratch()
        with ExitStack() as undo:
            undo.callback(lambda: staging.discard([volume for swap in swaps for volume in swap.incoming]))
            for swap in swaps:
                swap.incoming.append(_incoming(domain.session, store, points, manifest, swap, domain.uuid, hooks))
            _check_room(domain, swaps)
            # Of a running guest also from disks that stay: QEMU goes back to no snapshot of a disk with bitmaps.
            checkpoint.drop_ours(domain, disks_go=True)
            was_running = _stopped(domain, allow_stop, stop_timeout_s)
            undo.pop_all()
        _let_stand_alone(domain, swaps)
        for swap in swaps:
            _put(domain, swap, hooks)
        stays = [f"{words} stays as it is" for words in _put_beside(domain, store, manifest)]
    others = {disk.target for disk in snapshot.disks_of(domain)} - {swap.entry.target for swap in swaps}
    lacking = (*(f"disk {target} stays as it is" for target in sorted(others)), *stays)
    return Restored(manifest.point, domain.name, domain.uuid, _targets(manifest), lacking, was_running)


def _let_stand_alone(domain: Domain, swaps: list[_Swap]) -> None:
    """Have the definition name no files below the disks: of what comes, the guest would read old data as holes."""
    xml = alone(domain.secret_xml(stored=True), {swap.entry.target for swap in swaps})
    if xml:
        Domain.define(domain.session, xml, domain.name, domain.uuid)


def _put_beside(domain: Domain, store: Store, manifest: Manifest, kinds: tuple[str, ...] = ()) -> list[str]:
    """Give the domain, which is off, the point's NVRAM and TPM state; return in words what could not be."""
    lacking = []
    stored = {entry.kind: entry for entry in manifest.beside}
    for one in firmware.of(domain):
        entry = stored.get(one.kind)
        if entry is None or one.kind in kinds:
            lacking.append(firmware.WORDS[one.kind])
            continue
        firmware.put(domain.session, one, _beside_file(store, manifest, entry))
    return lacking


def _beside_file(store: Store, manifest: Manifest, entry: BesideEntry) -> bytes:
    """Return what a small file held: a volume of a store may be larger, and its zeros at the end are not read."""
    return store.read(manifest.point, entry.file).ljust(entry.bytes, b"\0")[: entry.bytes]


def _targets(manifest: Manifest) -> tuple[str, ...]:
    return tuple(disk.target for disk in manifest.disks)


def _refuse_foreign(domain: Domain, store: Store, manifest: Manifest) -> None:
    if manifest.uuid != domain.uuid:
        reason = f"{store.of(manifest.point)} is of another domain (UUID {manifest.uuid})"
        raise Conflict("restore", domain.target, reason, "Restore it as a new domain.")
    if job.running(domain):
        raise InUse("restore", domain.target, "a backup of it runs", "Let it end.")
    snapshots = [one.name for one in snapshot.listed(domain)]
    if snapshots:
        reason = f"it has the snapshots {', '.join(snapshots[:5])}, which go with its disks"
        raise InUse("restore", domain.target, reason, "Delete them, or restore into a new domain.")


def _swaps(domain: Domain, manifest: Manifest) -> list[_Swap]:
    states = {disk.target: disk for disk in snapshot.disks_of(domain)}
    look = Users(domain.session)
    found = []
    for entry in manifest.disks:
        state = states.get(entry.target)
        pool = staging.pool_of(domain.session, state.path) if state and state.path else None
        if state is None or pool is None:
            reason = f"it has no disk {entry.target} any more" if state is None else (
                f"disk {entry.target} ({state.path}) is in no directory pool"
            )  # fmt: skip
            raise Unsupported("restore", domain.target, reason, "Restore into a new domain.")
        _check_same(entry, state, domain)
        # A file that somebody deleted is a volume until the pool looks again.
        pool.refresh()
        old = Volume.find(pool, posixpath.basename(state.path))
        users = old.users(domain.uuid, look) if old else []
        if users:
            raise InUse("replace", f"{entry.target} of {domain.target}", f"it is used by {', '.join(users[:5])}",
                        "Restore into a new domain.")  # fmt: skip
        found.append(_Swap(entry, state, pool, old))
    return found


def _check_same(entry: DiskEntry, state: DiskState, domain: Domain) -> None:
    """Raise ``Unsupported`` where an encrypted disk, which is put back as it was, is declared otherwise today."""
    if bool(entry.secret) != state.encrypted or (entry.secret and entry.format != state.format):
        was, now = ("encrypted" if one else "not encrypted" for one in (entry.secret, state.encrypted))
        reason = f"disk {entry.target} was {was} ({entry.format}), and is {now} ({state.format}) today"
        raise Unsupported("restore", domain.target, reason, "Restore into a new domain.")


def _refuse_alive(domain: Domain, allowed: bool) -> None:
    """Raise ``InUse`` unless the guest is off, without a saved state, or may be stopped."""
    if allowed:
        return
    if domain.state not in OFF:
        remedy = "Shut it down first, or let it be stopped: --allow-stop, allow_stop."
        raise InUse("restore", domain.target, "it runs", remedy)
    if snapshot.is_saved(domain):
        remedy = "Start it and shut it down first, or allow that the saved state is lost: --allow-stop, allow_stop."
        raise InUse("restore", domain.target, "it has a saved state, which is of its present disks", remedy)


def _stopped(domain: Domain, allowed: bool, timeout_s: float) -> bool:
    """Have the guest off, with no memory of the old disks; it may have been started meanwhile."""
    _refuse_alive(domain, allowed)
    runs = domain.state not in OFF
    domain.stop(timeout_s)
    snapshot.drop_saved_state(domain)
    return runs


def _check_room(domain: Domain, swaps: list[_Swap]) -> None:
    """Raise while every old disk is still there, when a new one could not take its place."""
    for swap in swaps:
        freed = swap.old.facts().allocation_bytes if swap.old else 0
        wanted = sum(volume.facts().allocation_bytes for volume in swap.incoming) - freed
        staging.check(swap.pool, max(0, wanted), f"{swap.entry.target} of {domain.name}")


def _incoming(
    session: Session, store: Store, points: Mapping[str, Manifest], manifest: Manifest, swap: _Swap, uuid: str,
    hooks: Hooks,
) -> Volume:  # fmt: skip
    name = staging.name(staging.RESTORE, uuid, swap.entry.target, swap.state.format or swap.entry.format)
    return _uploaded(session, store, points, manifest, swap.entry, swap.pool, name, hooks)


def _uploaded(
    session: Session, store: Store, points: Mapping[str, Manifest], manifest: Manifest, entry: DiskEntry, pool: Pool,
    name: str, hooks: Hooks,
) -> Volume:  # fmt: skip
    """Put a disk together on this machine, and send it to the host as a new volume."""
    format_ = posixpath.splitext(name)[1][1:]
    hooks.progress(f"restoring {entry.target}", 0, entry.virtual_bytes)
    with ExitStack() as files:
        layers = chain.layers(points, manifest.point, entry.target)
        paths = [files.enter_context(store.local(m.point, e.file)) for m, e in layers]
        if entry.secret:
            return _as_it_is(session, paths[-1], entry, pool, name, hooks)
        flat = files.enter_context(store.scratch()) / f"{entry.target}.{format_}"
        images.flatten(paths, flat, format_, store.of(manifest.point))
        staging.check(pool, flat.stat().st_blocks * 512, name)
        volume = staging.make(pool, name, entry.virtual_bytes, format_, hooks.claim)
        volume.upload(flat)
    pool.refresh()
    hooks.progress(f"restoring {entry.target}", entry.virtual_bytes, entry.virtual_bytes)
    return Volume.get(Pool.get(session, pool.name), name)


def _as_it_is(session: Session, path: Path, entry: DiskEntry, pool: Pool, name: str, hooks: Hooks) -> Volume:
    """Send an encrypted disk to the host as it was, which needs no key."""
    staging.check(pool, entry.bytes, name)
    staging.make(pool, name, entry.bytes, "raw", hooks.claim).upload(path)
    pool.refresh()
    return Volume.get(Pool.get(session, pool.name), name)


def _put(domain: Domain, swap: _Swap, hooks: Hooks) -> None:
    """Let the new content have the old disk's name: what knows the disk by its path need not learn another."""
    (incoming,) = swap.incoming
    name, backing = posixpath.basename(swap.state.path), ""
    if swap.old is not None:
        backing = swap.old.facts().backing
        swap.old.delete(domain.uuid)
    format_ = swap.state.format or swap.entry.format
    size = swap.entry.bytes if swap.entry.secret else swap.entry.virtual_bytes
    xml = Wish(name, size, "raw" if swap.entry.secret else format_).xml(size)
    if not swap.entry.secret and incoming.facts().format == format_:
        Volume.create(swap.pool, xml, name, source=incoming)
    else:
        # An encrypted one, or raw content that looks like another format: the host would convert it.
        formats.copy_bytes(incoming, Volume.create(swap.pool, xml, name))
        swap.pool.refresh()
    incoming.delete()
    if backing:
        storage.release_base(swap.pool, backing)
    else:
        # A run that was killed may have deleted the overlay, and nobody knows its base any more.
        storage.release_unneeded(swap.pool)
    hooks.note(f"disk {swap.entry.target} of {domain.target} is that of the backup")


def restore_as(session: Session, store: Store, point: str, name: str, hooks: Hooks, pool: str = "") -> Restored:
    """Make a new domain of a point ("": the newest), with its own name, UUID and addresses; it is not started.

    ``pool`` is for its disks; where none is named, that of the old ones, or ``default``. A run that was killed may
    be run again: the UUID follows from the point and the name.

    Raises:
        Conflict: a domain of this name exists.
    """
    with store.lock():
        points, _damaged = store.manifests()
        manifest = chain.get(points, point, store.label)
        uuid = str(uuids.uuid5(NAMESPACE, f"restored/{manifest.uuid}/{manifest.point}/{name}"))
        Domain.check_free(session, name, uuid)
        if Domain.find_by_uuid(session, uuid) is not None:
            raise Conflict("restore", Domain.label(name, session), "it was restored already", "Give another name.")
        require_sound(store, points, manifest.point, hooks.progress)
        staging.sweep(session, staging.RESTORE, uuid)
        disks = {}
        with ExitStack() as undo:
            undo.callback(_tidy, session, uuid)
            for entry in manifest.disks:
                place = _place(session, pool, entry)
                volume = staging.name(staging.RESTORE, uuid, entry.target, entry.format)
                made = _uploaded(session, store, points, manifest, entry, place, volume, hooks)
                disks[entry.target] = RestoredDisk(made.path, entry.format)
            before = store.read(manifest.point, DEFINITION).decode()
            odd: list[str] = []
            if manifest.disks:
                own = functools.partial(seeds.another, name=name, instance_id=uuid, macs=macs(before, uuid))
                drives, odd = _seeds(store, manifest, _place(session, pool, manifest.disks[0]), uuid, own, hooks)
                disks |= drives
            xml, lacking = another(before, name, uuid, disks)
            made_of = Domain.define(session, xml, name, uuid)
            undo.callback(made_of.undefine)
            # A TPM is one machine's alone: a copy gets its own at its first start.
            lacking += [*odd, *_put_beside(made_of, store, manifest, kinds=(firmware.TPM,))]
            undo.pop_all()
    return Restored(manifest.point, name, uuid, _targets(manifest), tuple(lacking))


def _seeds(
    store: Store, manifest: Manifest, pool: Pool, uuid: str, own: Callable[[bytes], bytes], hooks: Hooks
) -> tuple[dict[str, RestoredDisk], list[str]]:
    """Make the copy's own seeds, each in the drive that it was in; say also which are those of the first machine."""
    made: dict[str, RestoredDisk] = {}
    odd: list[str] = []
    for entry in manifest.beside:
        if entry.kind == seeds.KIND:
            old = _beside_file(store, manifest, entry)
            data, target = own(old), posixpath.splitext(entry.file)[0]
            odd += [f"a seed of its own in {target}, as that of the first cannot be read"] if data == old else []
            name = staging.name(staging.RESTORE, uuid, target, "iso")
            volume = staging.make(pool, name, len(data), "raw", hooks.claim)
            volume.upload(data)
            made[target] = RestoredDisk(volume.path, "raw")
    return made, odd


def _tidy(session: Session, uuid: str) -> None:
    """Remove what was made; where that fails the next run does, and what failed first is what counts."""
    with suppress(CoreError):
        staging.sweep(session, staging.RESTORE, uuid)


def _place(session: Session, pool: str, entry: DiskEntry) -> Pool:
    found = Pool.get(session, pool, "Name a pool for the disks.") if pool else staging.pool_of(session, entry.source)
    found = found or Pool.find(session, "default")
    if found is None:
        raise Missing("restore", f"disk {entry.target}", f"there is no pool for it on {session.uri}", "Name one: pool.")
    found.start()
    return found
