"""Read the host again into runtime properties; nothing of the host is changed."""

from __future__ import annotations

from cloudify_libvirt.binding import look_up
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.host import addresses as host_addresses
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.states import RUNNING
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import addresses, change, status


def domain(request: Request) -> None:
    """Record the addresses of a domain that runs, and where its console is kept."""
    found: Domain | None = look_up(Domain, request)
    if found is None:
        return
    change.confirm(found, request)
    if found.state in RUNNING:
        addresses.write(request, host_addresses.look_up(found))
    request.record.assign(console_log=found.facts().console_log)


def network(request: Request) -> None:
    """Record the bridge."""
    found: Network | None = look_up(Network, request)
    if found is not None:
        request.record.assign(bridge=found.facts().bridge)


def pool(request: Request) -> None:
    """Record the directory; the pool's list of volumes is read again."""
    found: Pool | None = look_up(Pool, request)
    if found is not None:
        if found.active:
            found.refresh()
        request.record.assign(path=found.path)


def volume(request: Request) -> None:
    """Record the path."""
    pool = Pool.find(request.session, str(request.record.get("pool")))
    if pool is None or not pool.active:
        return
    found = status.stored(pool, str(request.record.get("resource_id")))
    if found is not None:
        request.record.assign(path=found.path)


def iso9660(request: Request) -> None:
    """Record the parameters in force; an image has nothing else."""
    _ = request.params
