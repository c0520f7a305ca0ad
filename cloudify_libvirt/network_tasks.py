"""Operations of cloudify.libvirt.network, and of cloudify.libvirt.relationships.connected_to."""

from __future__ import annotations

from cloudify_libvirt.binding import External, Missing, as_operation, operates_on, removes
from cloudify_libvirt.checking import changes, checks
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import addresses, definition, drift, drift_report, network_update, status, validation
from cloudify_libvirt.steps import heal as healing
from cloudify_libvirt.steps import network as steps
from cloudify_libvirt.steps import pull as pulling


@as_operation("network", records=False)
def validate(request: Request) -> None:
    """Say all that stands against this node, before anything is made."""
    validation.network(request)


@as_operation("network")
def create(request: Request) -> None:
    """Define and start the network, or find the existing one."""
    steps.create(request)


@operates_on(Network, kind="network", missing=Missing.FAIL, external=External.SKIP)
def start(network: Network, request: Request) -> None:
    """Start the network when it is not active."""
    network.start()


@changes("network")
def update(request: Request) -> None:
    """Bring the network to what is declared today: live, at its next start, or on wish at once."""
    network_update.update(request)


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


@as_operation("network")
def snapshot_create(request: Request) -> None:
    """Keep the definition, in the runtime properties or in a file."""
    definition.create(request, Network)


@as_operation("network")
def snapshot_apply(request: Request) -> None:
    """Bring the network back to the kept definition, or fail saying why that cannot be."""
    definition.apply(request, Network)


@as_operation("network")
def snapshot_delete(request: Request) -> None:
    """Drop the kept definition."""
    definition.delete(request)


@as_operation("network")
def snapshot_rotate(request: Request) -> None:
    """Let those go that the rotation no longer keeps."""
    definition.let_old_ones_go(request)


@checks("network")
def check_status(request: Request) -> None:
    """Raise when the network is gone or not active."""
    status.check(request, status.network)


@checks("network")
def check_drift(request: Request) -> list[dict[str, object]] | None:
    """Return what is not as declared; None when all is."""
    return drift_report.check(request, drift.network)


@as_operation("network")
def heal(request: Request) -> None:
    """Bring the network back with the same UUID and bridge, and running guests back to it."""
    healing.network(request)


@as_operation("network")
def pull(request: Request) -> None:
    """Record the bridge of today."""
    pulling.network(request)
