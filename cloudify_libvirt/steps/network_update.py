"""Bring a network that stands to what is declared today: live as far as libvirt can, the rest at its next start."""

from __future__ import annotations

from collections.abc import Iterable

from cloudify_libvirt.binding import claim, look_up
from cloudify_libvirt.core import network as host_networks
from cloudify_libvirt.core import parse
from cloudify_libvirt.core.drift.compare import LIVE, Difference, Subject
from cloudify_libvirt.core.errors import CoreError, InUse
from cloudify_libvirt.core.host import hostnet
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.update.network_entries import entries
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.core.update.withdrawn import brought
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, drift, heal, standing
from cloudify_libvirt.steps import network as steps

SUBJECT = Subject("network", "")
# Recorded while running guests may be off the bridge.
_CARDS = {"cards": {"wanted": "plugged in", "now": "to be plugged in", "how": "live", "why": "", "at_start": False}}


def update(request: Request) -> None:
    """Carry out what differs; what waits for a restart is recorded, what takes a replacement is refused."""
    if request.external:
        request.record.warn(f"{request.label}: the network is not ours; it stays as it is")
        return
    found: Network | None = look_up(Network, request)
    if found is None:
        heal.network(request)
        found = standing.again(Network, request)
    # Inputs stay in force.
    _ = request.params
    why = _carry_out(found, request, standing.Leave.of(request))
    found = standing.again(Network, request)
    left = list(drift.network(declared.of_today(request)))
    if not left:
        request.record.put(declared=declared.network(declared.of_today(request)), bridge=found.facts().bridge)
    standing.report(request, "network", left, why, active=found.active)


def _carry_out(found: Network, request: Request, leave: standing.Leave) -> dict[str, str]:
    """Do what may be done; return why the rest waits, by field."""
    if standing.takes("network", _differences(request), How.REPLACE):
        if leave.replace:
            _replace(found, request)
        return {}
    with host_lock(request.uri, "networks"):
        why = _change(found, request)
        found.autostart(request.spec.autostart)
        if found.active and leave.restart and any(one.where == LIVE for one in _differences(request)):
            why |= _restart(found, request)
        found.start()
        _plug(found, request)
    return why


def _differences(request: Request) -> list[Difference]:
    return list(drift.network(declared.of_today(request)))


def _change(found: Network, request: Request) -> dict[str, str]:
    """Change the definition, then the lists of the network that runs."""
    # Chooses what is to be chosen, and records it.
    steps.facts(request, found.uuid)
    wanted, last = declared.network(declared.of_today(request)), str(request.record.get("declared") or "")
    check_place(found, brought(SUBJECT, wanted, last, found.xml()))
    if any(one.where != "host" for one in _differences(request)):
        standing.redefine(found, request, SUBJECT, wanted, last)
    return _change_lists(found, request, wanted, last) if found.active else {}


def check_place(found: Network, target: str) -> None:
    """Refuse, before anything is changed, what the next start would fail on."""
    now, then = found.facts(), parse.network(target)
    session, label = found.session, found.target
    if then.bridge and then.bridge != now.bridge and then.forward != "bridge":
        host_networks.check_bridge(session, found.uuid, then.bridge, label)
    new = [subnet for subnet in then.subnets if subnet not in now.subnets]
    host_networks.check_subnets(session, found.uuid, new, label, own=now.bridge)
    routes = [route for route in then.routes if route not in now.routes]
    host_networks.check_routes(session, found.uuid, routes, label)


def _change_lists(found: Network, request: Request, wanted: str, last: str) -> dict[str, str]:
    """Tell libvirt what changed in the lists that it changes live; return its words where it would not."""
    live = found.xml()
    target = brought(SUBJECT, wanted, last, live)
    refused = []
    for entry in entries(parse.document(target), parse.document(live)):
        try:
            found.change(entry)
            request.record.note(f"{found.target}: {entry.command} {entry.xml}")
        except CoreError as error:
            if error.retryable:
                raise
            refused.append(error.reason)
    return {"": f"libvirt would not do it live ({refused[0]}); {standing.RESTART}"} if refused else {}


def _restart(found: Network, request: Request) -> dict[str, str]:
    """Start the network anew and plug running guests in again; return why not, where that is not to be."""
    users = found.users()
    own_bridge = bool(found.facts().bridge) and found.facts().forward != "bridge"
    if users and own_bridge and not (found.session.shares_files and hostnet.may_join()):
        reason = f"running domains ({', '.join(users[:5])}) would lose their link, and we may not plug them in again"
        return {"": f"{reason}: run this as root on that host, or stop them first"}
    before = found.xml()
    request.record.put(update_pending={**(request.record.get("update_pending") or {}), **_CARDS})
    found.stop()
    try:
        found.start()
    except CoreError:
        # What it ran with can start.
        Network.define(found.session, before, found.name, found.uuid)
        found.start()
        _plug(found, request)
        raise
    request.record.note(f"started {found.target} anew")
    old, new = parse.network(before).subnets, found.facts().subnets
    if users and old != new:
        named = ", ".join(sorted(users))
        request.record.warn(
            f"guests that run keep their addresses of {_words(old)} until they ask for those of {_words(new)}: "
            f"{named}. Restart each (virsh reboot NAME), or renew its lease in the guest; then bring "
            f"their attributes up to date: cfy executions start pull -b {request.ctx.deployment.id}"
        )
    return {}


def _words(subnets: Iterable[object]) -> str:
    return " and ".join(map(str, subnets)) or "no subnet"


def _plug(found: Network, request: Request) -> None:
    heal.plug(found, request)
    pending = request.record.get("update_pending") or {}
    if "cards" in pending:
        request.record.put(update_pending={field: entry for field, entry in pending.items() if field != "cards"})


def _replace(found: Network, request: Request) -> None:
    """Make the network anew, under its new name; what cannot be made replaces nothing.

    Raises:
        InUse: running domains are on it.
        Conflict: name, bridge or subnet is taken; nothing was touched.
    """
    # Nobody takes in between what was found free.
    with host_lock(request.uri, "networks"):
        users = found.users()
        if users:
            reason = f"running domains are on it: {', '.join(users[:5])}"
            raise InUse("replace", found.target, reason, "Stop them first; it is left as it is.")
        _check_new(found, request)
        before, autostarts = found.xml(), found.persistent and found.autostarts
        request.record.note(f"making {found.target} anew")
        name, uuid = found.name, found.uuid
        found.stop()
        found.undefine()
        try:
            claim(Network, request)
            steps.make(request)
        except CoreError:
            _bring_back(request, before, name, uuid).autostart(autostarts)
            raise


def _check_new(found: Network, request: Request) -> None:
    """Refuse what the network could not be made with under its new name."""
    steps.check_name(request)
    if not request.spec.linux_bridge:
        steps.check_host(request.session, request.spec, found.target)
    # Chooses what is to be chosen, and records it.
    steps.facts(request, found.uuid)
    check_place(found, declared.network(declared.of_today(request)))


def _bring_back(request: Request, before: str, name: str, uuid: str) -> Network:
    """Have the network again as it was: what ran can run."""
    made = Network.find_by_uuid(request.session, uuid)
    if made is not None:
        made.stop()
        made.undefine()
    request.record.put(resource_id=name)
    old: Network = Network.define(request.session, before, name, uuid)
    old.start()
    request.record.note(f"{old.target} is there again, as it was")
    return old
