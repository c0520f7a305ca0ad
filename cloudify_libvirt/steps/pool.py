"""Steps of a storage pool's life."""

from __future__ import annotations

from cloudify_libvirt.binding import claim, find_external
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec.variables import PoolFacts
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request

# How many names of a directory that stays a warning gives.
NAMED = 5


def check(request: Request) -> None:
    """Refuse what cannot work, before anything is made."""
    if request.external:
        return
    Pool.check_free(request.session, request.name, request.params["instance_uuid"])
    Pool.check_path_free(
        request.session,
        request.draft.target_path,
        request.params["instance_uuid"],
        Pool.label(request.name, request.session),
    )


def create(request: Request) -> None:
    """Find the existing pool, or define ours."""
    if request.external and find_external(Pool, request):
        return
    check(request)
    uuid = claim(Pool, request)
    xml = request.render("pool.xml.j2", "storagepool", PoolFacts(uuid=uuid))
    pool = Pool.define(request.session, xml, request.name, uuid)
    pool.autostart(request.spec.autostart)
    request.record.put(path=pool.path)


def configure(pool: Pool, request: Request) -> None:
    """Make the directory when the pool cannot start without, and remember that it is ours."""
    if pool.active or pool.try_start():
        return
    # Written before the directory is made: a directory that was there would have let the pool start.
    request.record.put(built=True)
    pool.build()


def delete(pool: Pool | None, request: Request) -> None:
    """Undefine the pool; its directory goes only when we made it and it is empty."""
    if pool is None:
        return
    left = pool.contents()
    if left:
        request.record.warn(f"left directory {pool.path} of pool '{pool.name}' alone: it holds {_listed(pool, left)}")
    pool.stop()
    if request.record.get("built") and not left and not pool.vanished:
        _delete_directory(pool, request)
    pool.undefine()


def _listed(pool: Pool, names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(_described(pool, name) for name in names[:NAMED]) + more


def _described(pool: Pool, name: str) -> str:
    """Return a name of the pool's directory, with those who use that volume."""
    volume = Volume.find(pool, name) if pool.try_start() else None
    users = volume.users() if volume else []
    return f"{name} (used by {', '.join(users)})" if users else name


def _delete_directory(pool: Pool, request: Request) -> None:
    try:
        pool.delete_target()
    except CoreError as error:
        request.record.warn(
            f"left directory {pool.path} of pool '{pool.name}' alone: it is not empty, "
            f"or not ours to delete ({error.reason})"
        )
