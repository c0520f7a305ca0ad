"""Steps of a domain's life."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from cloudify_libvirt.binding import claim, find_external
from cloudify_libvirt.core import parse, states
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, TimedOut
from cloudify_libvirt.core.host import preflight, readiness
from cloudify_libvirt.core.host.console import remove_logs
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.ownership import mark
from cloudify_libvirt.core.parse import DomainFacts
from cloudify_libvirt.core.spec.hardware_variables import serial_logs
from cloudify_libvirt.core.units import parse_bool, parse_int
from cloudify_libvirt.core.update.listed import listed
from cloudify_libvirt.engine import queued_operations
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import addresses, declared, drift, keeping, machine, parts, snapshot, update

ADDRESS_TIMEOUT_S = 300
SHUTDOWN_TIMEOUT_S = 60
# Workflows that run `start` alone: nobody asks for the host's state afterwards.
_START_ONLY = frozenset({"start", "restart", "execute_operation"})


def check_name(request: Request) -> None:
    """Refuse a name that is taken."""
    Domain.check_free(request.session, request.name, request.params["instance_uuid"])


def create(request: Request) -> None:
    """Record the merged parameters, with MACs filled in; scripts may rewrite them before ``configure``."""
    # Both are recorded as they are read: they may be inputs of this operation alone.
    _ = (request.params, request.uri)
    if request.external:
        if request.resource_id:
            request.record.assign(resource_id=request.resource_id)
        return
    machine.fill_macs(request)


def configure(request: Request) -> None:
    """Find the existing domain, or make ours with its volumes and reservations; nothing is started."""
    if request.external and find_external(Domain, request):
        return
    plan = machine.plan(request)
    xml = machine.xml(request, plan)
    declared.keep_template(request)
    _check_host(request, plan)
    choice, root = plan.choice, parse.document(xml)
    console = parse.domain_of(root).console_log
    request.record.assign(accelerator=choice.why, domain_type=choice.domain_type, console_log=console)
    arch = root.xpath("string(os/type/@arch)") or None
    request.record.assign(arch=arch, serial_logs=serial_logs(request.spec, plan.uuid), declared=listed(root))
    there = claim(Domain, request, keeping.domain(request, plan))
    try:
        _make(request, plan, xml, there)
    except CoreError as error:
        if not error.retryable:
            _undo(request, plan)
        raise


def _undo(request: Request, plan: machine.Plan) -> None:
    """Remove what was made for a domain that is not there; what fails now is left for ``delete``.

    What an earlier install left may hold what a guest wrote: it stays.
    """
    if request.record.get("adopted"):
        return
    try:
        if Domain.find_by_uuid(request.session, plan.uuid) is None:
            parts.remove(request, besides=plan.uuid)
    except CoreError as error:
        request.record.warn(f"something made for domain '{request.name}' is left until uninstall: {error}")


def _make(request: Request, plan: machine.Plan, xml: str, there: Domain | None) -> None:
    parts.make(request, plan)
    domain = _defined(request, plan, xml, there)
    domain.autostart(request.spec.autostart)
    request.record.note(f"defined {domain.target} ({plan.choice.domain_type}: {plan.choice.why})")


def _defined(request: Request, plan: machine.Plan, xml: str, there: Domain | None) -> Domain:
    """Define the domain, with MACs that nobody took since they were chosen and nobody takes meanwhile.

    ``there``, of an earlier install, is left as it is where it has all that is declared, and is marked as this one's.
    """
    macs = [card.mac for card in request.spec.networks if card.mac]
    with host_lock(request.uri, "macs") if macs else nullcontext():
        preflight.check_macs(request.session, plan.uuid, macs, Domain.label(request.name, request.session))
        if there is not None and drift.defined_so(request, plan, xml, there):
            domain = there
        else:
            domain = Domain.define(request.session, xml, request.name, plan.uuid)
    if there is not None and any(drift.lost_mark(domain, xml, domain.target)):
        mark.put(domain, xml)
    return domain


def _check_host(request: Request, plan: machine.Plan) -> None:
    """Refuse what the guest could not start with, while nothing is made yet."""
    label = Domain.label(request.name, request.session)
    preflight.check_paths(request.session, machine.foreign_paths(request), [part.path for part in plan.parts], label)
    machine.check_hardware(request, plan, label)
    if request.session.driver == "qemu" and request.spec.has_memory:
        preflight.check_memory(request.session, request.spec.memory_kib, label)


def start(domain: Domain, request: Request) -> None:
    """Start the domain; where no state is asked for afterwards, wait for its addresses here."""
    request.record.assign(suspended=None, stopped=None)
    if domain.state not in states.RUNNING:
        facts = domain.facts()
        _check_networks(domain, facts)
        if domain.session.driver == "qemu":
            preflight.check_memory(domain.session, domain.memory_kib, domain.target)
        # Before it starts, as a killed operation must not take a lease of the last boot for one of this.
        request.record.put(
            stale_leases=readiness.stale_leases(domain, facts.interfaces),
            started_at=time.time(),
            shutdown_asked_at=None,
        )
        snapshot.start(domain)
        console = f", console log {facts.console_log}" if facts.console_log else ""
        request.record.note(f"started {domain.target}{console}")
        update.settle(request)
    else:
        # The time to wait for addresses begins now.
        request.record.put(started_at=time.time(), shutdown_asked_at=None)
    if request.ctx.workflow_id in _START_ONLY:
        _wait_here(domain, request)


def restarted(domain: Domain, request: Request) -> None:
    """Start a domain that an update stopped, and wait for its addresses: nobody else asks for them."""
    start(domain, request)
    if request.ctx.workflow_id not in _START_ONLY:
        _wait_here(domain, request)


def _check_networks(domain: Domain, facts: DomainFacts) -> None:
    for name in {card.network for card in facts.interfaces if card.network}:
        network = Network.get(domain.session, name, "Check params.networks, or install its node first.")
        if not network.active:
            reason = f"its network '{name}' is not active"
            raise CoreError("start", domain.target, reason, f"Start it: virsh net-start {name}")


def _wait_here(domain: Domain, request: Request) -> None:
    """Wait in the operation itself: nobody else's work is given way to, as nobody would ask again."""
    request.record.note(f"waiting for an address of {domain.name}")
    while not get_state(domain, request, queued=lambda: 0):
        pass


def get_state(domain: Domain, request: Request, queued: Callable[[], int | None] = queued_operations) -> bool:
    """Tell whether the domain runs and, where one is waited for, has an address; record the addresses.

    Raises:
        GuestFailed: the guest ended.
        TimedOut: it has no address by its deadline.
    """
    if not request.record.get("started_at"):
        # Its start is mapped to another function, such as update: it need not run.
        return True
    params = request.record.get("params") or {}
    if not parse_bool(params.get("wait_for_ip") or False, "wait_for_ip") or not domain.facts().interfaces:
        return _runs(domain)
    begin = float(request.record.get("started_at"))
    allowed = _seconds(params, "address_timeout_s", ADDRESS_TIMEOUT_S)
    turn_s = min(readiness.TURN_S, max(0.0, begin + allowed - time.time()))
    stale = request.record.get("stale_leases") or {}
    cards = readiness.turn(domain, stale, queued=queued, turn_s=turn_s)
    waited = time.time() - begin
    if cards is not None:
        addresses.write(request, cards)
        request.record.note(f"{domain.name} has address {request.record.get('ip')} after {waited:.1f} s")
        return True
    if waited >= allowed:
        raise readiness.overdue(domain, waited)
    return False


def _runs(domain: Domain) -> bool:
    if domain.state in states.OFF:
        raise domain.failure("run")
    return True


def _seconds(params: dict[str, Any], key: str, default: int) -> int:
    value = params.get(key)
    return default if value in (None, "") else parse_int(value, key)


def prestop(domain: Domain, request: Request) -> None:
    """Ask the guest to shut down, and return; the time that it has for that begins now."""
    domain.ask_shutdown()
    request.record.assign(shutdown_asked_at=time.time())


def stop(domain: Domain, request: Request) -> None:
    """Ask the guest to shut down, then force it; forget its address."""
    readiness.forget(domain)
    params = request.record.get("params") or {}
    asked_at = request.record.get("shutdown_asked_at")
    # Guests that were all asked before have their time together, not one after the other.
    gone_s = max(0.0, time.time() - float(asked_at)) if asked_at else 0.0
    request.record.assign(stopped=True)
    allowed = _seconds(params, "shutdown_timeout_s", SHUTDOWN_TIMEOUT_S)
    domain.stop(max(0.0, allowed - gone_s), lambda text: request.record.note(f"{text} (shutdown_timeout_s: {allowed})"))
    if request.record.get("ip"):
        request.record.assign(ip=None)


def delete(domain: Domain | None, request: Request) -> None:
    """Remove the domain and exactly what was made for it."""
    uuid = str(request.record.get("uuid") or "")
    if domain is not None:
        readiness.forget(domain)
        snapshot.collect_files(domain, request)
        domain.destroy()
        domain.undefine()
    if uuid:
        snapshot.remove_files(request, uuid)
        logs = (str(request.record.get("console_log") or ""), *(request.record.get("serial_logs") or ()))
        for path, error in remove_logs(request.session, logs, uuid):
            request.record.warn(f"left {path} alone: {error.reason}")
    parts.remove(request, besides=uuid)


def reboot(domain: Domain) -> None:
    """Ask the guest to restart."""
    _change(domain, states.REBOOT)


def suspend(domain: Domain, request: Request) -> None:
    """Pause the guest; fine when it is paused."""
    request.record.assign(suspended=True)
    if domain.state is not states.State.PAUSED:
        _change(domain, states.SUSPEND)


def resume(domain: Domain, request: Request) -> None:
    """Let a paused guest go on; fine when it runs."""
    request.record.assign(suspended=None)
    if domain.state not in states.RUNNING:
        _change(domain, states.RESUME)


def _change(domain: Domain, transition: states.Transition) -> None:
    if domain.change(transition, SHUTDOWN_TIMEOUT_S):
        return
    if domain.state in states.OFF:
        raise domain.failure(transition.name)
    raise TimedOut(transition.name, domain.target, f"it is still {domain.state.name.lower()}")
