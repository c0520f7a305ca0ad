"""Operations of cloudify.libvirt.pool."""

from __future__ import annotations

from cloudify_libvirt.binding import External, Missing, as_operation, operates_on, removes
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import pool as steps


@as_operation("pool")
def precreate(request: Request) -> None:
    """Check the parameters and the connection before anything is made."""
    steps.check(request)


@as_operation("pool")
def create(request: Request) -> None:
    """Define the pool, or find the existing one."""
    steps.create(request)


@operates_on(Pool, kind="pool", missing=Missing.FAIL, external=External.SKIP)
def configure(pool: Pool, request: Request) -> None:
    """Build what the pool stands on, if it is not there."""
    steps.configure(pool, request)


@operates_on(Pool, kind="pool", missing=Missing.FAIL, external=External.SKIP)
def start(pool: Pool, request: Request) -> None:
    """Activate the pool."""
    pool.start()


@operates_on(Pool, kind="pool", missing=Missing.SKIP, external=External.SKIP)
def stop(pool: Pool, request: Request) -> None:
    """Deactivate the pool; guests that use its volumes go on."""
    pool.stop()


@removes(Pool, kind="pool")
def delete(pool: Pool | None, request: Request) -> None:
    """Undefine the pool, and remove its directory if we made it and it is empty."""
    steps.delete(pool, request)
