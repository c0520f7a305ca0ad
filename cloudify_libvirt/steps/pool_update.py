"""Bring a pool that stands to what is declared today; its volumes are never moved, hidden or cut off from guests."""

from __future__ import annotations

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core.drift.compare import LIVE, Difference, Subject
from cloudify_libvirt.core.errors import CoreError, InUse
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.secret import Secret
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, drift, heal, standing
from cloudify_libvirt.steps import pool as steps

_SUBJECT = Subject("pool", "")
_PERMISSIONS = frozenset({"mode", "owner", "group"})


def update(request: Request) -> None:
    """Carry out what differs; what waits for a restart is recorded, what takes a replacement is refused."""
    if request.external:
        request.record.warn(f"{request.label}: the pool is not ours; it stays as it is")
        return
    found: Pool | None = look_up(Pool, request)
    if found is None or found.vanished:
        heal.pool(request)
        found = standing.again(Pool, request)
    # Inputs stay in force.
    _ = request.params
    why = _carry_out(found, request, standing.Leave.of(request))
    found = standing.again(Pool, request)
    left = _differences(request)
    if not left:
        request.record.put(declared=declared.pool(declared.of_today(request)), path=found.path)
    standing.report(request, "pool", left, why, active=found.active)


def _differences(request: Request) -> list[Difference]:
    return list(drift.pool(declared.of_today(request)))


def _carry_out(found: Pool, request: Request, leave: standing.Leave) -> dict[str, str]:
    """Do what may be done; return why the rest waits, by field."""
    differences = _differences(request)
    if standing.takes("pool", differences, How.REPLACE):
        if leave.replace:
            _replace(found, request)
        return {}
    _renew_password(request)
    found.autostart(request.spec.autostart)
    if any(one.where != "host" for one in differences):
        wanted, last = declared.pool(declared.of_today(request)), str(request.record.get("declared") or "")
        standing.redefine(found, request, _SUBJECT, wanted, last)
    why = {}
    live = [one for one in _differences(request) if one.where == LIVE]
    if found.active and live and leave.restart:
        why = _restart(found, request, build=any(one.field in _PERMISSIONS for one in live))
    if not request.record.get("stopped"):
        found.start()
    return why


def _renew_password(request: Request) -> None:
    """Give libvirt the password of today; what it has cannot be compared."""
    value, uuid = request.spec.secret_value, request.record.get("secret")
    secret = Secret.find(request.session, uuid) if value is not None and uuid else None
    if secret is not None and value is not None:
        secret.set_value(value)


def _restart(found: Pool, request: Request, *, build: bool) -> dict[str, str]:
    """Stop and start the pool, its directory brought to its permissions; return why not, where it cannot stop."""
    before = found.xml()
    try:
        found.stop()
    except CoreError as error:
        return {"": f"it cannot stop now: {error.reason}"}
    try:
        if build and found.facts.type == "dir":
            found.build()
        found.start()
    except CoreError:
        # What it ran with can start.
        Pool.define(found.session, before, found.name, found.uuid)
        found.start()
        raise
    request.record.note(f"started {found.target} anew")
    return {}


def _replace(found: Pool, request: Request) -> None:
    """Make the pool anew at its new place, if it holds nothing.

    Raises:
        InUse: it holds volumes, which would stay behind.
        Conflict, Missing: it cannot be made anew; what there is stays.
    """
    fault = found.try_start()
    if fault is not None:
        raise fault
    found.refresh()
    held = list(dict.fromkeys([*found.volume_names(), *found.contents()]))
    if held:
        reason = f"it holds {', '.join(held[:5])}, which would stay where they are"
        raise InUse("replace", found.target, reason, "Move or remove its volumes first; it is left as it is.")
    for check in steps.CHECKS:
        check(request)
    request.record.note(f"making {found.target} anew")
    steps.delete(found, request)
    request.record.put(built=None, formatted=None, secret=None)
    steps.create(request)
    steps.configure(standing.again(Pool, request), request)
