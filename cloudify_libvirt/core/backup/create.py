"""One backup, from the running guest to a point in the store."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from cloudify_libvirt import __version__
from cloudify_libvirt.core.backup import chain, checkpoint, firmware, images, job, names, seeds, staging
from cloudify_libvirt.core.backup.keeping import held, spare_checkpoints
from cloudify_libvirt.core.backup.manifest import DEFINITION, BesideEntry, DiskEntry, Manifest
from cloudify_libvirt.core.backup.plan import DiskPlan, Order, Plan, plan
from cloudify_libvirt.core.backup.poolstore import zeros
from cloudify_libvirt.core.backup.store import Store
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import (
    Busy,
    ChainBroken,
    Conflict,
    CoreError,
    GuestFailed,
    Unsupported,
    libvirt_call,
)
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.snapshot import snapshots as snapshot
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.storage import formats, stream
from cloudify_libvirt.core.storage.bases import Wish
from cloudify_libvirt.core.volume import Volume

_OFF = "the guest was off"
_SAVED = "as after a power cut: the guest was saved, with what it had not written yet"


def _no_claim(_pool: str, _name: str) -> None:
    """Record nothing: who asked keeps no journal."""


def _no_progress(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def _no_note(_text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Hooks:
    """What the layer above wants to know: volumes before they are made, bytes done, what was cleaned up."""

    claim: staging.Claim = _no_claim
    progress: job.Progress = _no_progress
    note: Callable[[str], None] = _no_note


def create(domain: Domain, store: Store, order: Order, hooks: Hooks | None = None) -> Manifest:
    """Make one point: an increment where that is right, else a full one that says why.

    Raises:
        Busy: another run, or another tool, backs the domain up.
        ChainBroken: ``kind`` is incremental, and that would not be right.
        GuestFailed: the guest ended meanwhile.
    """
    hooks = hooks or Hooks()
    with held(domain, store):
        clean_up(domain, store, hooks)
        points, damaged = store.manifests()
        point = _point(store, order, [*points, *damaged])
        wanted = plan(domain, points, order)
        return _Run(domain, store, order, hooks, points, point).make(wanted)


def _point(store: Store, order: Order, taken: list[str]) -> str:
    point = names.point_name(order.point) if order.point else names.new_point(_now(), taken)
    if point in taken:
        raise Conflict("make", store.of(point), "it exists", "Give another name, or delete it first.")
    return point


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def clean_up(domain: Domain, store: Store, hooks: Hooks) -> None:
    """Remove what a run that was killed left: its draft, job, volumes and checkpoint.

    Raises:
        Busy: a job runs that is not of such a run.
    """
    drafts = store.sweep()
    if job.running(domain):
        if not drafts:
            reason = "another backup of it runs"
            raise Busy("back up", domain.target, reason, f"Let it end, or: virsh domjobabort {domain.name}")
        job.abort(domain)
    if drafts:
        # Killed between freezing and thawing, it would have left the guest still.
        job.thaw(domain)
    left = staging.sweep(domain.session, staging.BACKUP, domain.uuid)
    if drafts or left:
        hooks.note(f"removed what an earlier run left: {', '.join([*drafts, *left])}")
    if domain.state not in OFF:
        _drop_checkpoints(domain, store, hooks)


def _drop_checkpoints(domain: Domain, store: Store, hooks: Hooks) -> None:
    for left in checkpoint.drop_all(domain, spare_checkpoints(domain, store)):
        hooks.note(f"left for the next run: {left}")


@dataclass
class _Run:
    domain: Domain
    store: Store
    order: Order
    hooks: Hooks
    points: dict[str, Manifest]
    point: str

    def make(self, wanted: Plan) -> Manifest:
        self.store.check_room(sum(disk.estimate_bytes for disk in wanted.disks))
        with ExitStack() as undo:
            undo.callback(self._sweep)
            # Before anything else: a draft says whose job it is that a killed run left.
            definition = self._definition()
            staged, wanted, checkpoint_name, why_not_still = self._copied(wanted, undo)
            beside = self._beside()
            entries = tuple(self._stored(disk, volume, wanted) for disk, volume in staged)
            manifest = self._manifest(wanted, entries, checkpoint_name, why_not_still, definition)
            manifest = manifest.model_copy(update={"beside": beside})
            self.store.publish(manifest)
            undo.pop_all()
        failures = staging.discard([volume for _disk, volume in staged])
        for failure in failures:
            self.hooks.note(f"left for the next run: {failure}")
        if wanted.running and self.domain.state not in OFF:
            _drop_checkpoints(self.domain, self.store, self.hooks)
        return manifest

    def _sweep(self) -> None:
        """Remove the draft; where that fails the next run does, and what failed first is what counts.

        Where libvirtd went the job may still run: the draft stays, and tells the next run whose it is.
        """
        with suppress(CoreError):
            if self.domain.session.alive:
                self.store.sweep()

    def _definition(self) -> tuple[int, str]:
        xml = self.domain.xml(libvirt.VIR_DOMAIN_XML_INACTIVE).encode()
        return self.store.write(self.point, DEFINITION, len(xml), [xml])

    def _beside(self) -> tuple[BesideEntry, ...]:
        """Store the firmware's variables and the TPM's state; one that was never started has none."""
        found = []
        for one in firmware.of(self.domain):
            data = firmware.content(self.domain.session, one)
            if data is not None:
                written, digest = self.store.write(self.point, one.kind, len(data), [data])
                found.append(BesideEntry(kind=one.kind, file=one.kind, bytes=written, sha256=digest))
        return (*found, *self._seeds())

    def _seeds(self) -> Iterator[BesideEntry]:
        """Store the seeds in the domain's drives; what cannot be read, a copy will lack."""
        for target, path in seeds.of(self.domain):
            try:
                data = seeds.content(self.domain.session, path)
            except CoreError as error:
                self.hooks.note(f"the point has no copy of the medium of {target} ({path}): {error.reason}")
                continue
            if data is not None:
                file = f"{target}.iso"
                written, digest = self.store.write(self.point, file, len(data), [data])
                yield BesideEntry(kind=seeds.KIND, file=file, bytes=written, sha256=digest)

    def _copied(self, wanted: Plan, undo: ExitStack) -> tuple[list[tuple[DiskPlan, Volume]], Plan, str, str]:
        """Have the disks as they are at one moment in volumes of the hypervisor's host."""
        pool = staging.choose(self.domain, self.order.staging_pool, [disk.source for disk in wanted.disks])
        staging.check(pool, sum(disk.estimate_bytes for disk in wanted.disks), self.domain.name)
        staged: list[tuple[DiskPlan, Volume]] = []
        undo.callback(lambda: staging.discard([volume for _disk, volume in staged]))
        if not wanted.running:
            staged += [(disk, self._cloned(disk, pool)) for disk in wanted.disks]
            return staged, wanted, "", ""
        for disk in wanted.disks:
            staged.append((disk, self._volume(pool, disk)))
        name = names.checkpoint_prefix(self.store.label) + self.point if any(d.tracked for d in wanted.disks) else ""
        undo.callback(self._forget, name)
        wanted, why = self._begun(wanted, staged, name)
        job.finish(self.domain, self.order.timeout_s, self.hooks.progress)
        return staged, wanted, name, why

    def _volume(self, pool: Pool, disk: DiskPlan) -> Volume:
        name = staging.name(staging.BACKUP, self.domain.uuid, disk.target, disk.file_format)
        return staging.make(pool, name, disk.virtual_bytes, disk.file_format, self.hooks.claim, disk.secret)

    def _begun(self, wanted: Plan, staged: list[tuple[DiskPlan, Volume]], name: str) -> tuple[Plan, str]:
        """Start the job; where the checkpoint turns out broken, as a full one."""
        try:
            return wanted, self._begin(wanted, staged, name)
        except ChainBroken as error:
            if wanted.parent is None or self.order.kind == "incremental":
                raise
            checkpoint.drop(self.domain, wanted.parent.checkpoint)
            full = wanted.as_full(error.reason)
            return full, self._begin(full, staged, name)

    def _begin(self, wanted: Plan, staged: list[tuple[DiskPlan, Volume]], name: str) -> str:
        paths = {disk.target: volume.path for disk, volume in staged}
        jobs = [
            job.DiskJob(d.target, paths[d.target], d.since, d.tracked, d.file_format, d.secret) for d in wanted.disks
        ]
        jobs += [job.DiskJob(skipped.target, "", "", False) for skipped in wanted.skipped]
        with job.at_rest(self.domain, self.order.quiesce) as why:
            job.begin(self.domain, jobs, name, f"{self.store.deployment}/{self.store.domain}/{self.point}")
        return why

    def _forget(self, name: str) -> None:
        """Drop the checkpoint of a backup that failed: the one before it goes on to remember."""
        with suppress(CoreError):
            if name and self.domain.state not in OFF and name in checkpoint.names(self.domain):
                checkpoint.drop(self.domain, name)

    def _cloned(self, disk: DiskPlan, pool: Pool) -> Volume:
        """Copy a disk of a stopped guest on its host, with all that it stands on."""
        target = f"disk {disk.target} of {self.domain.target}"
        with libvirt_call("back up", target, "Put it into a pool, or start the guest: then any disk can be."):
            source = self._source(disk)
        name = staging.name(staging.BACKUP, self.domain.uuid, disk.target, disk.file_format)
        if disk.secret:
            volume = self._same_bytes(source, pool, name)
        else:
            self.hooks.claim(pool.name, name)
            xml = Wish(name, disk.virtual_bytes, "qcow2").xml(disk.virtual_bytes)
            volume = Volume.create(pool, xml, name, source=source)
        if self.domain.state not in OFF:
            staging.discard([volume])
            raise GuestFailed("back up", self.domain.target, "it was started meanwhile", "Try again.", retryable=True)
        return volume

    def _same_bytes(self, source: Volume, pool: Pool, name: str) -> Volume:
        """Copy an encrypted disk as it is, without its key."""
        if source.facts().backing:
            reason = "it is encrypted, and stands on another file"
            raise Unsupported("back up", source.target, reason, "Start the guest: then it is copied with all.")
        volume = staging.make(pool, name, source.length_bytes, "raw", self.hooks.claim)
        formats.copy_bytes(source, volume)
        return volume

    def _source(self, disk: DiskPlan) -> Volume:
        """Return the disk's volume; raise where its host takes it for another format than the guest does."""
        handle = self.domain.session.connection.storageVolLookupByPath(disk.source)
        pool = Pool(self.domain.session, handle.storagePoolLookupByVolume())
        pool.refresh()
        found = Volume.get(pool, handle.name())
        seen = found.facts().format
        # An ISO image is raw to the host, too.
        if disk.format != ("raw" if seen == "iso" else seen):
            target = f"disk {disk.target} of {self.domain.target}"
            reason = f"it is {disk.format}, but looks like {seen} to its host, which would copy that"
            raise Unsupported("back up", target, reason, "Start the guest: then its disks are copied as it sees them.")
        return found

    def _stored(self, disk: DiskPlan, volume: Volume, wanted: Plan) -> DiskEntry:
        """Bring one disk into the store, as a stream from its host."""
        size = volume.length_bytes
        self.store.check_room(size)
        file = f"{disk.target}.{disk.file_format}"
        written, digest = self.store.write(self.point, file, size, self._chunks(volume, disk.target, size))
        planned = next(one for one in wanted.disks if one.target == disk.target)
        entry = DiskEntry(
            target=disk.target, format=disk.format, source=disk.source, virtual_bytes=disk.virtual_bytes,
            file=file, bytes=written, sha256=digest, incremental=bool(planned.since), secret=disk.secret,
        )  # fmt: skip
        if disk.secret or not self.order.content:
            return entry
        return entry.model_copy(update={"content_sha256": self._content(entry, wanted)})

    def _chunks(self, volume: Volume, target: str, size: int) -> Iterator[bytes]:
        for offset, length, data in stream.received(volume.pool.session, volume.handle, volume.target):
            yield from zeros(length) if data is None else (data,)
            self.hooks.progress(f"storing {target}", offset + length, size)

    def _content(self, entry: DiskEntry, wanted: Plan) -> str:
        with ExitStack() as files:
            below = chain.layers(self.points, wanted.parent.point, entry.target) if wanted.parent else []
            below = below if entry.incremental else []
            paths = [files.enter_context(self.store.local(m.point, e.file)) for m, e in below]
            paths.append(files.enter_context(self.store.local(self.point, entry.file)))
            scratch = files.enter_context(self.store.scratch())
            return images.content_digest(paths, scratch, self.store.of(self.point))

    def _manifest(
        self, wanted: Plan, entries: tuple[DiskEntry, ...], name: str, why_not_still: str, definition: tuple[int, str]
    ) -> Manifest:
        connection = self.domain.session.connection
        still = wanted.running and not why_not_still
        reached = _OFF if not wanted.running else "file systems at rest"
        if not wanted.running and snapshot.is_saved(self.domain):
            reached = _SAVED
        with libvirt_call("read the version of", f"hypervisor {self.domain.session.uri}"):
            versions = connection.getLibVersion(), connection.getVersion()
        return Manifest(
            tool=__version__, point=self.point, created=_now().isoformat(timespec="seconds"),
            sequence=max((one.sequence for one in self.points.values()), default=0) + 1,
            deployment=self.store.deployment, domain=self.store.domain, uuid=self.domain.uuid,
            parent=wanted.parent.point if wanted.parent else "", reason=wanted.reason, checkpoint=name,
            running=wanted.running, quiesced=still,
            consistency=f"as after a power cut: {why_not_still}" if why_not_still else reached,
            libvirt=versions[0], hypervisor=versions[1], disks=entries, skipped=wanted.skipped,
            definition_bytes=definition[0], definition_sha256=definition[1],
        )  # fmt: skip
