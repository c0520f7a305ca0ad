"""Backups of a node's domain: its own points, in a directory or pool that the node or the call names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cloudify_libvirt.core.backup import keeping
from cloudify_libvirt.core.backup.chain import Keep
from cloudify_libvirt.core.backup.create import Hooks, clean_up
from cloudify_libvirt.core.backup.create import create as make_point
from cloudify_libvirt.core.backup.keeping import Place
from cloudify_libvirt.core.backup.manifest import Manifest
from cloudify_libvirt.core.backup.plan import Order
from cloudify_libvirt.core.backup.restore import Restored, restore_as
from cloudify_libvirt.core.backup.restore import restore as restore_disks
from cloudify_libvirt.core.backup.store import Store
from cloudify_libvirt.core.backup.verify import verify as look_at
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import BackupBroken, CoreError, quiet
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec.backup import BackupSpec, parse_backup
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps.domain import SHUTDOWN_TIMEOUT_S
from cloudify_libvirt.steps.repeated import by_repeated_run

_STAGED = "staged"


def _asked(request: Request) -> BackupSpec:
    return parse_backup(request.inputs, node=request.ctx.node.name)


def _store(domain: Domain, request: Request, asked: BackupSpec) -> Store:
    directory = "" if asked.pool else asked.dir or request.backup_dir
    # A tenant stands before its deployment with a slash, which no directory's name can have.
    deployment = request.identity.deployment.replace("/", "@")
    return Place(directory, asked.pool, asked.uri or request.uri).store(deployment, domain.name)


def _hooks(request: Request) -> Hooks:
    """Record each volume before it is made, so that uninstall removes what a killed run left."""

    def claim(pool: str, name: str) -> None:
        made, entry = list(request.record.get("made") or []), {"pool": pool, "name": name, "kind": _STAGED}
        if entry not in made:
            request.record.put(made=[*made, entry])

    return Hooks(claim=claim, note=request.record.note)


def _released(request: Request) -> None:
    """Strike out the volumes on their way that are gone; what is left stays written down, for uninstall."""
    made = list(request.record.get("made") or [])
    request.record.put(made=[entry for entry in made if entry.get("kind") != _STAGED or _is_left(request, entry)])


def _is_left(request: Request, entry: Mapping[str, str]) -> bool:
    try:
        pool = Pool.find(request.session, entry["pool"])
        return pool is not None and (not pool.active or Volume.find(pool, entry["name"]) is not None)
    except CoreError:
        # The connection went: nobody knows.
        return True


@contextmanager
def _staging(request: Request) -> Iterator[None]:
    """Keep no account of volumes on their way that are gone, also after a failure that cleaned up."""
    try:
        yield
    finally:
        _released(request)


def _shown(manifest: Manifest) -> dict[str, Any]:
    shown: dict[str, Any] = manifest.model_dump(
        mode="json", include={"point", "created", "parent", "reason", "consistency"}
    )
    return {**shown, "kind": manifest.kind, "bytes": manifest.size_bytes}


def create(domain: Domain, request: Request) -> dict[str, Any]:
    """Make a point, and let old ones go where a rotation is given; recorded as ``last_backup``."""
    asked = _asked(request)
    store = _store(domain, request, asked)
    order = Order(
        asked.point, asked.kind, asked.quiesce, float(asked.timeout_s), asked.staging_pool, max(1, asked.full_every),
        asked.exclude, asked.content,
    )  # fmt: skip
    with _staging(request):
        manifest = _made_already(domain, store, asked, request) or make_point(domain, store, order, _hooks(request))
    shown = _shown(manifest)
    request.record.put(last_backup=shown)
    why = f" ({manifest.reason})" if manifest.reason else ""
    size = f"{human_size(manifest.size_bytes)}{why}, in the {store.label}"
    request.record.note(f"{manifest.kind} backup '{manifest.point}' of {domain.target}: {size}")
    if asked.rotates:
        _prune(domain, store, asked, request)
    return shown


def _made_already(domain: Domain, store: Store, asked: BackupSpec, request: Request) -> Manifest | None:
    """Return the point of that name when a run made it that was killed or failed, and is run again."""
    found = store.manifests()[0].get(asked.point) if asked.point else None
    if found is None or found.uuid != domain.uuid or not by_repeated_run(request, found.created):
        return None
    with keeping.held(domain, store):
        clean_up(domain, store, _hooks(request))
    request.record.note(f"{store.of(found.point)} was made by the run that this one repeats, at {found.created}")
    return found


def _prune(domain: Domain, store: Store, asked: BackupSpec, request: Request) -> list[str]:
    gone = keeping.prune(store, Keep(asked.keep_last, asked.keep_daily, asked.keep_weekly, asked.keep_monthly))
    if gone:
        request.record.note(f"deleted the points {', '.join(gone)} of {store.label}")
        _let_go(domain, store, request)
    return gone


def _let_go(domain: Domain, store: Store, request: Request) -> None:
    for left in keeping.let_go(domain, store):
        request.record.note(f"left for the next run: {left}")


def prune(domain: Domain, request: Request) -> list[str]:
    """Let old points go; return their names."""
    asked = _asked(request)
    return _prune(domain, _store(domain, request, asked), asked, request)


def listed(domain: Domain, request: Request) -> list[dict[str, Any]]:
    """Return the points, the oldest first; those that cannot be read say why."""
    points, damaged = keeping.listed(_store(domain, request, _asked(request)))
    return [*map(_shown, points), *({"point": name, "damaged": why} for name, why in damaged.items())]


def verify(domain: Domain, request: Request) -> dict[str, Any]:
    """Look at one point, or at all; raise ``BackupBroken`` with everything that is wrong."""
    asked = _asked(request)
    store = _store(domain, request, asked)
    report = look_at(store, asked.point, lambda *_: None, deep=asked.deep)
    if not report.sound:
        reasons = "; ".join(f"point '{finding.point}': {finding.reason}" for finding in report.findings)
        raise BackupBroken("verify", store.label, reasons, "Make a full backup: the chain begins anew with it.")
    return {"points": list(report.points), "compared": list(report.compared)}


def restore(domain: Domain, request: Request) -> dict[str, Any]:
    """Put the disks back to a point, and let a guest that was stopped for it run again; or make a new domain."""
    asked = _asked(request)
    store = _store(domain, request, asked)
    if asked.new_name:
        done = restore_as(request.session, store, asked.point, asked.new_name, Hooks(note=request.record.note))
    else:
        done = _restored(domain, store, asked, request)
    for lacking in done.lacking:
        request.record.warn(f"restored {done.domain} from '{done.point}' without {lacking}")
    request.record.note(f"restored {', '.join(done.disks)} of domain '{done.domain}' from '{done.point}'")
    return {"point": done.point, "domain": done.domain, "uuid": done.uuid, "disks": list(done.disks)}


def _restored(domain: Domain, store: Store, asked: BackupSpec, request: Request) -> Restored:
    """Restore in place; that the guest ran is written down before, as a killed run may have stopped it."""
    timeout_s = float(request.params.get("shutdown_timeout_s", SHUTDOWN_TIMEOUT_S))
    if domain.state not in OFF:
        request.record.put(restore_stopped=True)
    try:
        with _staging(request):
            done = restore_disks(
                domain, store, asked.point, _hooks(request), allow_stop=asked.allow_stop, stop_timeout_s=timeout_s
            )
    except CoreError:
        if quiet(lambda: domain.state not in OFF, False):
            request.record.put(restore_stopped=False)
        raise
    if request.record.get("restore_stopped"):
        domain.start()
        request.record.put(restore_stopped=False)
    return done


def delete(domain: Domain, request: Request) -> None:
    """Delete one point that no other stands on."""
    asked = _asked(request)
    store = _store(domain, request, asked)
    keeping.delete(store, asked.point)
    _let_go(domain, store, request)
