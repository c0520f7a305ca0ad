"""Bring back what was lost, as the same object: UUID, MACs and addresses stay. Contents are never made up."""

from __future__ import annotations

from functools import partial

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core import parse, states
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, DataLost
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.update.hotplug import as_text
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, parts, status, undefined
from cloudify_libvirt.steps import domain as domains
from cloudify_libvirt.steps import iso9660 as iso_steps
from cloudify_libvirt.steps import pool as pools
from cloudify_libvirt.steps import volume as volumes


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
        DataLost: a disk that was made for it is gone, or nobody knows its file; nothing was changed.
    """
    _refuse_loss(request, partial(status.lost, starts_pools=True))
    _refuse_foreign(request)
    now = declared.of_today(request)
    plan, xml = declared.domain(now)
    found: Domain | None = look_up(Domain, request)
    if found is None or not found.persistent:
        root = parse.document(xml)
        declared.remember(request, root)
        standing = undefined.on_top(request, xml) if found is None else as_text(undefined.as_running(found, root))
        found = Domain.define(request.session, standing, now.name, plan.uuid)
        found.autostart(now.spec.autostart)
        request.record.note(f"defined {found.target} again, with UUID {plan.uuid}")
    _networks(found, request)
    parts.mend(request, plan)
    if status.wanted_state(request) == "running" and found.state not in states.RUNNING:
        domains.start(found, request)


def _networks(found: Domain, request: Request) -> None:
    """Start the networks that the domain needs; one that is gone is its own node's to heal, before this."""
    for name in {card.network for card in found.facts().interfaces if card.network}:
        network = Network.find(found.session, name)
        if network is None:
            reason = f"its network '{name}' does not exist"
            raise CoreError("heal", found.target, reason, "Heal the network first.", retryable=True)
        network.start()
        plug(network, request)


def plug(network: Network, request: Request) -> None:
    """Plug the cards of running guests into the bridge again; say what to do where we may not."""
    for end in network.plug():
        request.record.warn(
            f"{end} is off the bridge of {network.target}, and we may not plug it in: as root, on that host, "
            f"ip link set {end} master {network.facts().bridge}"
        )


def network(request: Request) -> None:
    """Define the network again where it is gone, start it, and plug the cards of running guests into it."""
    _refuse_foreign(request)
    found: Network | None = look_up(Network, request)
    if found is None or not found.persistent:
        now = declared.of_today(request)
        found = Network.define(request.session, declared.network(now), now.name, str(request.record.get("uuid")))
        found.autostart(now.spec.autostart)
        request.record.note(f"defined {found.target} again, with UUID {found.uuid}")
    found.start()
    plug(found, request)


def pool(request: Request) -> None:
    """Define the pool again where it is gone, and bring it up; volumes that are gone stay so."""
    _refuse_foreign(request)
    found: Pool | None = look_up(Pool, request)
    if found is None or not found.persistent:
        now = declared.of_today(request)
        found = Pool.define(request.session, declared.pool(now), now.name, str(request.record.get("uuid")))
        found.autostart(now.spec.autostart)
        request.record.note(f"defined {found.target} again, with UUID {found.uuid}")
    pools.configure(found, request)


def volume(request: Request) -> None:
    """Give the host the volume's key again, if it lost that.

    Raises:
        DataLost: the volume is gone.
    """
    _refuse_loss(request, status.volume)
    volumes.start(request)


def iso9660(request: Request) -> None:
    """Write the image again; only what the blueprint says can be.

    Raises:
        DataLost: its contents came by inputs of the operation that wrote it.
    """
    if request.record.get("by_input"):
        reason = "its contents were inputs of an operation, and are in no property"
        raise DataLost("write again", f"the image of {request.label}", reason, "Install the node again.")
    iso_steps.create(request)
