"""Steps of a storage pool's life."""

from __future__ import annotations

from pathlib import PurePosixPath

from cloudify_libvirt.binding import claim, find_external
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec.variables import PoolFacts
from cloudify_libvirt.request import Request


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
    pool.stop()
    if request.record.get("built"):
        _delete_directory(pool, request)
    pool.undefine()


def _delete_directory(pool: Pool, request: Request) -> None:
    try:
        pool.delete_target()
    except CoreError as error:
        request.record.warn(
            f"left directory {PurePosixPath(pool.path)} of pool '{pool.name}' alone: it is not empty, "
            f"or not ours to delete ({error.reason})"
        )
