"""Bring back what was lost, as the same object: UUID, MACs and addresses stay. Contents are never made up."""

from __future__ import annotations

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core import parse, states
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, DataLost
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import addresses, declared, machine, parts, status
from cloudify_libvirt.steps import domain as domains
from cloudify_libvirt.steps import iso9660 as iso_steps
from cloudify_libvirt.steps import pool as pools
from cloudify_libvirt.steps import volume_key


def _refuse_loss(request: Request, look: status.Look) -> None:
    """Raise ``DataLost`` where only a backup can heal: something empty of the same name would hide the loss."""
    lost = [finding for finding in look(request) if finding.lost]
    if lost:
        status.check(request, lambda _request: iter(lost))


def _refuse_foreign(request: Request) -> None:
    if request.external:
        reason = "it is not ours to make or start"
        raise CoreError("heal", request.label, reason, "Whoever made it can bring it back.")


def domain(request: Request) -> None:
    """Define the domain again where it is gone, mend its links and addresses, and start it where it should run.

    Raises:
        DataLost: a disk that was made for it is gone; nothing was changed.
    """
    _refuse_loss(request, status.lost)
    _refuse_foreign(request)
    found: Domain | None = look_up(Domain, request)
    if found is None or not status.wanted_state(request):
        found = found or _defined_again(request)
    _networks(found)
    for mac, network, ip in declared.domain(declared.of_today(request))[0].reservations:
        parts.reserve(request, found.name, mac, network, ip)
    if status.wanted_state(request):
        _run(found, request)


def _defined_again(request: Request) -> Domain:
    now = declared.of_today(request)
    plan, xml = declared.domain(now)
    for part in plan.parts:
        if part.kind == "seed":
            pool = Pool.get(request.session, part.pool, "Heal its node first.")
            pool.start()
            if status.stored(pool, part.name) is None:
                parts.make_one(request, plan, part)
    found = Domain.define(request.session, xml, now.name, plan.uuid)
    found.autostart(now.spec.autostart)
    request.record.note(f"defined {found.target} again, with UUID {plan.uuid}")
    return found


def _networks(found: Domain) -> None:
    """Start the networks that the domain needs; one that is gone is its own node's to heal, before this."""
    for name in {card.network for card in found.facts().interfaces if card.network}:
        network = Network.find(found.session, name)
        if network is None:
            reason = f"its network '{name}' does not exist"
            raise CoreError("heal", found.target, reason, "Heal the network first.", retryable=True)
        network.start()
        network.plug(found)


def _run(found: Domain, request: Request) -> None:
    if status.wanted_state(request) == "running" and found.state not in states.RUNNING:
        domains.start(found, request)


def network(request: Request) -> None:
    """Define the network again where it is gone, start it, and plug the cards of running guests into it."""
    _refuse_foreign(request)
    found: Network | None = look_up(Network, request)
    if found is None:
        now = declared.of_today(request)
        found = Network.define(request.session, declared.network(now), now.name, str(request.record.get("uuid")))
        found.autostart(now.spec.autostart)
        request.record.note(f"defined {found.target} again, with UUID {found.uuid}")
    found.start()
    for handle in found.session.all_domains():
        found.plug(Domain(found.session, handle))


def pool(request: Request) -> None:
    """Define the pool again where it is gone, and bring it up; volumes that are gone stay so."""
    _refuse_foreign(request)
    found: Pool | None = look_up(Pool, request)
    if found is None:
        now = declared.of_today(request)
        found = Pool.define(request.session, declared.pool(now), now.name, str(request.record.get("uuid")))
        found.autostart(now.spec.autostart)
        request.record.note(f"defined {found.target} again, with UUID {found.uuid}")
    pools.configure(found, request)


def volume(request: Request) -> None:
    """Give the host the volume's key again.

    Raises:
        DataLost: the volume is gone.
    """
    _refuse_loss(request, status.volume)


def iso9660(request: Request) -> None:
    """Write the image again; only what the blueprint says can be.

    Raises:
        DataLost: its contents came by inputs of the operation that wrote it.
    """
    if request.record.get("by_input"):
        reason = "its contents were inputs of an operation, and are in no property"
        raise DataLost("write again", f"the image of {request.label}", reason, "Install the node again.")
    iso_steps.create(request)
