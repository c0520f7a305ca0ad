"""Operations of cloudify.libvirt.pool."""

from __future__ import annotations

from cloudify_libvirt.binding import External, Missing, as_operation, operates_on, removes
from cloudify_libvirt.checking import changes, checks
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import definition, drift, drift_report, pool_update, status, validation
from cloudify_libvirt.steps import heal as healing
from cloudify_libvirt.steps import pool as steps
from cloudify_libvirt.steps import pull as pulling


@as_operation("pool", records=False)
def validate(request: Request) -> None:
    """Say all that stands against this node, before anything is made."""
    validation.pool(request)


@as_operation("pool")
def create(request: Request) -> None:
    """Define the pool, or find the existing one."""
    steps.create(request)


@operates_on(Pool, kind="pool", missing=Missing.FAIL, external=External.SKIP)
def configure(pool: Pool, request: Request) -> None:
    """Build what the pool stands on, if it is not there and may be built, and activate the pool."""
    steps.configure(pool, request)


@operates_on(Pool, kind="pool", missing=Missing.FAIL, external=External.SKIP)
def start(pool: Pool, request: Request) -> None:
    """Activate the pool, and read its contents."""
    steps.start(pool, request)


@operates_on(Pool, kind="pool", missing=Missing.SKIP, external=External.SKIP)
def stop(pool: Pool, request: Request) -> None:
    """Deactivate the pool; guests that use its volumes go on."""
    steps.stop(pool, request)


@changes("pool")
def update(request: Request) -> None:
    """Bring the pool to what is declared today: at once, at its next start, or on wish by a restart."""
    pool_update.update(request)


@removes(Pool, kind="pool")
def delete(pool: Pool | None, request: Request) -> None:
    """Undefine the pool, and remove what we made for it and is empty."""
    steps.delete(pool, request)


@as_operation("pool")
def snapshot_create(request: Request) -> None:
    """Keep the definition, in the runtime properties or in a file."""
    definition.create(request, Pool)


@as_operation("pool")
def snapshot_apply(request: Request) -> None:
    """Bring the pool back to the kept definition, or fail saying why that cannot be."""
    definition.apply(request, Pool)


@as_operation("pool")
def snapshot_delete(request: Request) -> None:
    """Drop the kept definition."""
    definition.delete(request)


@as_operation("pool")
def snapshot_rotate(request: Request) -> None:
    """Let those go that the rotation no longer keeps."""
    definition.let_old_ones_go(request)


@checks("pool")
def check_status(request: Request) -> None:
    """Raise when the pool is gone, not active, or without its directory."""
    status.check(request, status.pool)


@checks("pool")
def check_drift(request: Request) -> list[dict[str, object]] | None:
    """Return what is not as declared; None when all is."""
    return drift_report.check(request, drift.pool)


@as_operation("pool")
def heal(request: Request) -> None:
    """Bring the pool back with the same UUID; volumes that are gone stay so."""
    healing.pool(request)


@as_operation("pool")
def pull(request: Request) -> None:
    """Read what is in the pool, and record its directory."""
    pulling.pool(request)
