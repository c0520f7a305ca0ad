"""Operations of cloudify.libvirt.network, and of cloudify.libvirt.relationships.connected_to."""

from __future__ import annotations

from cloudify_libvirt.binding import External, Missing, as_operation, operates_on, removes
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import addresses
from cloudify_libvirt.steps import network as steps


@as_operation("network")
def precreate(request: Request) -> None:
    """Check the parameters and the connection before anything is made."""
    steps.check(request)


@as_operation("network")
def create(request: Request) -> None:
    """Define and start the network, or find the existing one."""
    steps.create(request)


@operates_on(Network, kind="network", missing=Missing.FAIL, external=External.SKIP)
def start(network: Network, request: Request) -> None:
    """Start the network when it is not active."""
    network.start()


@removes(Network, kind="network")
def delete(network: Network | None, request: Request) -> None:
    """Stop and undefine the network."""
    steps.delete(network, request)


@as_operation("domain")
def link(request: Request) -> None:
    """Set the addresses of the relationship's source; the network itself is not written to."""
    addresses.link(request)


@as_operation("domain")
def unlink(request: Request) -> None:
    """Forget the address of the relationship's source."""
    addresses.unlink(request)
