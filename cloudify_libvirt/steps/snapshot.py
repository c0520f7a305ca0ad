"""Steps of a domain's snapshots: named by the instance, written down before they are made."""

from __future__ import annotations

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core.document.own_template import filled
from cloudify_libvirt.core.document.render import render
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, Missing
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.snapshot import snapshots as snapshot
from cloudify_libvirt.core.snapshot.delete import delete as delete_snapshot
from cloudify_libvirt.core.snapshot.plan import Plan, Wish
from cloudify_libvirt.core.snapshot.revert import check as check_revert
from cloudify_libvirt.core.snapshot.revert import revert
from cloudify_libvirt.core.snapshot.xml import completed
from cloudify_libvirt.core.spec.domain import DomainSpec
from cloudify_libvirt.core.spec.snapshot import SnapshotSpec, check_name
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import filebackup
from cloudify_libvirt.steps.repeated import written
from cloudify_libvirt.steps.snapshot_record import (
    asked,
    forget_series,
    job,
    journal,
    note_series,
    replace_name,
    rotate,
    snapshot_name,
)

# Holds what seeds hold: passwords.
_SECRETS = frozenset({"cloud_init"})


def domain_of(request: Request, action: str) -> Domain:
    """Return the domain; raise ``Missing`` when it was never made, or is gone."""
    found: Domain | None = look_up(Domain, request)
    if found is None:
        remedy = "Install the node first, or heal it."
        raise Missing(action, f"the domain of {request.label}", "it was never made, or is gone", remedy)
    return found


def create(request: Request) -> None:
    """Make a snapshot, or a backup in files; then let the oldest of a rotation go."""
    wanted = asked(request)
    domain = domain_of(request, "snapshot")
    if wanted.incremental:
        _create(domain, request, wanted)
    else:
        filebackup.create_of_domain(domain, request, wanted)
    note_series(request, wanted)
    if wanted.rotate:
        let_old_ones_go(request)


def let_old_ones_go(request: Request) -> None:
    """Remove what the rotation no longer keeps."""
    wanted = asked(request)
    domain = domain_of(request, "rotate the snapshots of")
    rotate(request, wanted, lambda name: _let_go(domain, request, wanted, name))


def _create(domain: Domain, request: Request, wanted: SnapshotSpec) -> None:
    name = snapshot_name(request, wanted.name)
    check_name(name, "snapshot_name")
    wish = Wish(name, wanted.type, wanted.kind, wanted.memory, wanted.quiesce, wanted.exclude)
    with job(request, domain, "create", name) as cut_off:
        there = snapshot.find(domain, name)
        if there is not None and (cut_off or written(request, wanted.name, there.created)):
            snapshot.name_below(domain, name)
            request.record.note(f"{snapshot.label(domain, name)} was made by an earlier attempt")
            return
        made = snapshot.create(domain, wish, journal(request), lambda plan: _xml(request, wish, plan))
    request.record.note(f"made {snapshot.label(domain, name)}: {made}")


def _xml(request: Request, wish: Wish, plan: Plan) -> str:
    """Return the document: by the packaged template, or by the user's, completed with the disks of the plan."""
    packaged = snapshot.packaged(wish, plan)
    if not request.has_own_template:
        return packaged
    params = {key: value for key, value in request.params.items() if key not in _SECRETS}
    source = request.template(snapshot.TEMPLATE)
    unset = dict.fromkeys(DomainSpec.model_fields, "")
    every = {**unset, **snapshot.variables(wish, plan), **params, "ctx": request.visible}
    older = not request.draft.modern
    variables = filled(source, every, given=params, warn=request.record.warn if older else None)
    text = render(source, variables, schema=snapshot.SCHEMA, node=request.ctx.node.name)
    return completed(text, packaged)


def start(domain: Domain) -> None:
    """Start a domain, once more where the definition lacked keys that a snapshot which was cut off did not note."""
    try:
        domain.start()
    except CoreError as error:
        if not _completed(domain):
            raise error from None
        domain.start()


def _completed(domain: Domain) -> bool:
    """Tell whether something was lacking, and is there now; where nobody can look, nothing was."""
    try:
        return snapshot.complete(domain)
    except CoreError:
        return False


def check(request: Request) -> None:
    """Raise as ``apply`` would, as far as that can be told before; nothing is touched."""
    wanted = asked(request)
    if not wanted.incremental:
        filebackup.check_of_domain(look_up(Domain, request), request, wanted)
        return
    domain = domain_of(request, "go back to a snapshot of")
    check_revert(domain, snapshot.get(domain, snapshot_name(request, wanted.name), "go back to"))


def apply(request: Request) -> None:
    """Go back to a snapshot, or restore a backup from files."""
    wanted = asked(request)
    if not wanted.incremental:
        filebackup.apply_to_domain(look_up(Domain, request), request, wanted)
        return
    domain = domain_of(request, "go back to a snapshot of")
    name = snapshot_name(request, wanted.name)
    snapshot.get(domain, name, "go back to")
    with job(request, domain, "apply", name) as cut_off:
        off = bool(request.record.get("snapshot_job", {}).get("off")) if cut_off else None
        dropped = revert(domain, name, journal(request), was_off=off)
    full = "; its next backup is a full one, as its checkpoints went" if dropped else ""
    request.record.note(f"{domain.target} is back at snapshot '{name}'{full}")


def delete(request: Request) -> None:
    """Delete a snapshot, or a backup in files."""
    wanted = asked(request)
    if wanted.incremental:
        _delete(domain_of(request, "delete a snapshot of"), request, wanted)
    else:
        filebackup.delete(request, wanted)
    forget_series(request, wanted)


def _delete(domain: Domain, request: Request, wanted: SnapshotSpec) -> None:
    name = snapshot_name(request, wanted.name)
    with job(request, domain, "delete", name) as cut_off:
        if cut_off and snapshot.find(domain, name) is None:
            snapshot.sweep(domain, journal(request))
            return
        off = bool(request.record.get("snapshot_job", {}).get("off")) if cut_off else None
        delete_snapshot(domain, name, journal(request), children=wanted.children, was_off=off)
    request.record.note(f"deleted {snapshot.label(domain, name)}")


def _let_go(domain: Domain, request: Request, wanted: SnapshotSpec, name: str) -> None:
    """Remove the oldest of a series; what is below it stays."""
    if wanted.incremental:
        delete_snapshot(domain, snapshot_name(request, name), journal(request), keep_below=True)
    else:
        filebackup.delete(request, replace_name(wanted, name))


def collect_files(domain: Domain, request: Request) -> None:
    """Write down every file of our scheme before the domain goes, with which libvirt forgets them."""
    try:
        found = snapshot.files(domain) if domain.session.driver == "qemu" else []
    except Missing:
        # It went meanwhile: what we made for it is written down already.
        return
    known = list(request.record.get("snapshot_files") or [])
    new = [path for path in found if path not in known]
    if new:
        request.record.put(snapshot_files=[*known, *new])


def remove_files(request: Request, uuid: str) -> None:
    """Remove the files of a domain's snapshots after it is gone; what others use stays, with a warning."""
    paths = list(request.record.get("snapshot_files") or [])
    for path, error in overlay.remove_all(request.session, paths, uuid) if paths else []:
        request.record.warn(f"left {path} alone: {error.reason}")
