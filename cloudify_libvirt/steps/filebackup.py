"""Steps of backups in files, and of the definitions that networks, pools and volumes keep for a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloudify_libvirt.core.backup import fulldump
from cloudify_libvirt.core.backup.filestore import DEFINITION, Store, on_disk
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Conflict, Missing
from cloudify_libvirt.core.spec.snapshot import SnapshotSpec
from cloudify_libvirt.core.states import OFF
from cloudify_libvirt.core.units import parse_bool
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import snapshot_record
from cloudify_libvirt.steps.repeated import written
from cloudify_libvirt.steps.snapshot_record import journal


def store_of(request: Request, wanted: SnapshotSpec) -> Store:
    """Return where this object's files of that backup are."""
    name = request.record.get("resource_id")
    if not name:
        remedy = "Install the node first."
        raise Missing("find a backup of", request.label, "its object was never made", remedy)
    uuid = str(request.record.get("uuid") or request.params["instance_uuid"])
    return Store(Path(request.backup_dir), request.identity.deployment, wanted.name, str(name), uuid)


def refuse_existing(request: Request, store: Store, name: str) -> None:
    """Raise ``Conflict`` when there is such a backup; one of a killed run that is run again is removed."""
    # Not of one that failed: what it has of this object may be all that there is.
    if store.complete and written(request, name, store.written_at, failed=False):
        store.remove()
    elif store.complete:
        raise Conflict("make", store.label, "there is one of this name", "Choose another name, or delete it first.")


def write_definition(request: Request, wanted: SnapshotSpec, text: str) -> None:
    """Write a definition alone."""
    store = store_of(request, wanted)
    refuse_existing(request, store, wanted.name)
    store.prepare()
    store.write(DEFINITION, text)
    request.record.note(f"wrote {store.path(DEFINITION)}")


def read_definition(request: Request, wanted: SnapshotSpec) -> str:
    """Return a definition that was written by us, or by a release before 1.0.

    Raises:
        Missing: there is no such backup.
        Conflict: it is of another object.
    """
    store = store_of(request, wanted)
    if store.complete:
        text = store.read(DEFINITION)
    elif store.earlier.is_file():
        with on_disk("read", f"file {store.earlier}"):
            text = store.earlier.read_text(encoding="utf-8")
    else:
        raise Missing("find", store.label, "it does not exist", f"Look into {store.base.absolute()}.")
    fulldump.check_definition(text, store.uuid, store.label)
    return text


def delete(request: Request, wanted: SnapshotSpec) -> None:
    """Remove the files of a backup.

    Raises:
        Missing: there is no such backup.
    """
    store = store_of(request, wanted)
    if not store.complete:
        read_definition(request, wanted)
        with on_disk("remove", f"file {store.earlier}"):
            store.earlier.unlink()
            store.earlier.with_name(f"{store.name}_raw").unlink(missing_ok=True)
        return
    store.remove()
    request.record.note(f"deleted {store.label}")


def create_of_domain(domain: Domain, request: Request, wanted: SnapshotSpec) -> None:
    """Write a domain's definition; with ``full_dump`` its memory and disks, too."""
    if not parse_bool(request.params.get("full_dump") or False, "full_dump"):
        write_definition(request, wanted, fulldump.definition(domain))
        return
    store = store_of(request, wanted)
    fulldump.refuse_remote(domain.session, domain.target)
    refuse_existing(request, store, wanted.name)
    fulldump.dump(domain, store)
    request.record.note(f"wrote {store.label}: definition, disks" + (", memory" if store.path("_raw").exists() else ""))


def check_of_domain(domain: Domain | None, request: Request, wanted: SnapshotSpec) -> None:
    """Raise as ``apply_to_domain`` would, as far as that can be told before; nothing is touched."""
    text = read_definition(request, wanted)
    store = store_of(request, wanted)
    held = fulldump.manifest(store) if store.complete else None
    if held is not None:
        fulldump.check(request.session, domain, store, held)
        return
    _refuse_memory_alone(store)
    fulldump.check_disks(domain, request.session, text, store.label)


def _refuse_memory_alone(store: Store) -> None:
    if not store.complete and store.earlier.with_name(f"{store.name}_raw").exists():
        reason = "it is a memory dump without the disks of its moment, and would ruin their file systems"
        raise Conflict("restore", store.label, reason, "If no disk changed since: virsh restore.")


def apply_to_domain(domain: Domain | None, request: Request, wanted: SnapshotSpec) -> None:
    """Restore a domain: whole from a dump, else its definition; it need not exist any more."""
    text = read_definition(request, wanted)
    store = store_of(request, wanted)
    held = fulldump.manifest(store) if store.complete else None
    starts_with_host = request.spec.autostart
    if held is not None:
        done = fulldump.restore(request.session, domain, store, held, journal(request))
        if domain is None:
            done.autostart(starts_with_host)
        request.record.note(f"restored {done.target} with its disks" + (", and its memory" if held.with_memory else ""))
        return
    _refuse_memory_alone(store)
    fulldump.check_disks(domain, request.session, text, store.label)
    done = Domain.define(request.session, text, store.name, store.uuid)
    if domain is None:
        done.autostart(starts_with_host)
    request.record.note(f"restored the definition of {done.target}; its disks are as they were")
    _take_effect(done, request, wanted)


def _take_effect(domain: Domain, request: Request, wanted: SnapshotSpec) -> None:
    if domain.state in OFF:
        return
    if not wanted.restart:
        request.record.warn(
            f"{domain.target} runs on with its present devices; the restored definition counts from its next start "
            "(snapshot_restart: true restarts it now)"
        )
        return
    domain.stop(float(request.params.get("shutdown_timeout_s") or 60))
    domain.start()


def definitions(request: Request) -> dict[str, Any]:
    """Return the definitions kept in runtime properties, by full name."""
    return dict(request.record.get("backups") or {})


def keep_definition(request: Request, wanted: SnapshotSpec, text: str) -> None:
    """Keep a definition in the runtime properties; raise ``Conflict`` when there is one of that name."""
    kept, full_name = definitions(request), snapshot_record.full_name(request, wanted.name)
    if full_name in kept and not written(request, wanted.name, None):
        remedy = "Choose another name, or delete it first."
        raise Conflict("make", f"backup '{full_name}' of {request.label}", "there is one of this name", remedy)
    # Together: a kill leaves both or none, so that a repeated run knows its own.
    request.record.put(backups={**kept, full_name: text}, snapshots=snapshot_record.with_series(request, wanted))


def kept_definition(request: Request, full_name: str) -> str:
    """Return a definition from the runtime properties; raise ``Missing`` when there is none of that name."""
    kept = definitions(request)
    if full_name not in kept:
        target = f"backup '{full_name}' of {request.label}"
        raise Missing("find", target, "it does not exist", f"There is: {', '.join(kept) or 'none'}.")
    return str(kept[full_name])


def forget_definition(request: Request, full_name: str) -> None:
    """Drop a definition from the runtime properties; raise ``Missing`` when there is none of that name."""
    kept_definition(request, full_name)
    kept = definitions(request)
    request.record.put(backups={name: text for name, text in kept.items() if name != full_name})
