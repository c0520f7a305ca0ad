"""Is everything there, and as it was written: chains, sizes, checksums, the structure of each file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from cloudify_libvirt.core.backup import chain, images
from cloudify_libvirt.core.backup.job import Progress
from cloudify_libvirt.core.backup.manifest import DiskEntry, Manifest
from cloudify_libvirt.core.backup.store import Store
from cloudify_libvirt.core.errors import BackupBroken


@dataclass(frozen=True)
class Finding:
    """What is wrong with one point."""

    point: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What was looked at, what is wrong, and of which disks (``point/target``) the content was compared, too."""

    points: tuple[str, ...]
    findings: tuple[Finding, ...]
    compared: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Tell whether every point can be restored."""
        return not self.findings


def verify(store: Store, point: str, progress: Progress, *, deep: bool = False) -> Report:
    """Look at one point with all it stands on, or for "" at all; nothing is changed.

    ``deep`` puts each disk together in scratch space, and compares what a guest would see with what was recorded.

    Raises:
        Missing: there is no such point.
    """
    with store.lock():
        points, damaged = store.manifests()
        if point in damaged:
            return Report((point,), (Finding(point, damaged[point]),))
        names = [one.point for one in chain.ordered(points)]
        if point:
            chain.get(points, point, store.label)
            names = [name for name in names if name == point or point in chain.dependants(points, name)]
        findings = [Finding(name, why) for name, why in damaged.items() if not point]
        for name in names:
            findings += [Finding(name, reason) for reason in faults(store, points, name, progress)]
        compared, wrong = _compared(store, points, names, findings) if deep else ((), [])
        return Report((*names, *(damaged if not point else ())), (*findings, *wrong), compared)


def faults(store: Store, points: Mapping[str, Manifest], name: str, progress: Progress) -> list[str]:
    """Return what is wrong with the point itself, and with the chain below it."""
    manifest, found = points[name], []
    for file, size, digest in manifest.files():
        progress(f"reading {name}/{file}", 0, size)
        try:
            _check_file(store, manifest, file, size, digest)
        except BackupBroken as error:
            found.append(error.reason)
    for disk in manifest.disks:
        try:
            chain.layers(points, name, disk.target)
        except BackupBroken as error:
            found.append(error.reason)
    return list(dict.fromkeys(found))


def _check_file(store: Store, manifest: Manifest, file: str, size: int, digest: str) -> None:
    label = f"{file} of {store.of(manifest.point)}"
    there, found = store.digest(manifest.point, file, size)
    if there != size:
        raise BackupBroken("use", label, f"{file} has {there} bytes, {size} were written")
    if found != digest:
        raise BackupBroken("use", label, f"{file} was changed since it was written: its sha256 is {found}")
    # The structure of an encrypted file is seen with its key alone.
    if any(disk.file == file and not disk.secret for disk in manifest.disks):
        with store.local(manifest.point, file) as path:
            images.check(path, label)


def _compared(
    store: Store, points: Mapping[str, Manifest], names: list[str], findings: list[Finding]
) -> tuple[tuple[str, ...], list[Finding]]:
    broken = {finding.point for finding in findings}
    compared: list[str] = []
    wrong: list[Finding] = []
    for name in names:
        if broken.intersection(one.point for one in chain.chain(points, name)):
            continue
        for disk in (disk for disk in points[name].disks if not disk.secret):
            compared += [f"{name}/{disk.target}"] if disk.content_sha256 else []
            reason = _content_fault(store, points, name, disk)
            wrong += [Finding(name, reason)] if reason else []
    return tuple(compared), wrong


def _content_fault(store: Store, points: Mapping[str, Manifest], name: str, disk: DiskEntry) -> str:
    """Put the disk together as a restore does, and say what is wrong with it, or ""."""
    with ExitStack() as files:
        layers = chain.layers(points, name, disk.target)
        paths = [files.enter_context(store.local(m.point, e.file)) for m, e in layers]
        scratch = files.enter_context(store.scratch())
        flat = scratch / f"{disk.target}.flat"
        images.flatten(paths, flat, "qcow2", store.of(name))
        found = images.content_digest([flat], scratch, store.of(name))
    if disk.content_sha256 and found != disk.content_sha256:
        return f"what a guest sees on {disk.target} is not what it was: its sha256 is {found}"
    return ""


def require_sound(store: Store, points: Mapping[str, Manifest], point: str, progress: Progress) -> None:
    """Raise ``BackupBroken`` when a point, or one it stands on, is not as it was written."""
    for manifest in chain.chain(points, point):
        found = faults(store, points, manifest.point, progress)
        if found:
            remedy = "Restore a point that does not stand on it; nothing was changed."
            raise BackupBroken("restore", store.of(point), f"point '{manifest.point}': {found[0]}", remedy)
