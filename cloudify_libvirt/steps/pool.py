"""Steps of a storage pool's life."""

from __future__ import annotations

from pathlib import Path

from cloudify_libvirt.binding import claim, find_external
from cloudify_libvirt.core.backup.staging import is_restored
from cloudify_libvirt.core.errors import CoreError, Missing
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.secret import Secret, Usage
from cloudify_libvirt.core.spec import PoolSpec
from cloudify_libvirt.core.spec.variables import PoolFacts
from cloudify_libvirt.core.storage import pool_preflight
from cloudify_libvirt.core.storage.pool_build import DONE, Build, erase
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared, keeping

# How many names of a directory that stays a warning gives.
NAMED = 5

_USAGE: dict[str, Usage] = {"chap": "iscsi", "ceph": "ceph"}


def check_name(request: Request) -> None:
    """Refuse a name that is taken."""
    Pool.check_free(request.session, request.name, request.params["instance_uuid"])


def check_directory(request: Request) -> None:
    """Refuse a directory that belongs to another pool."""
    spec, uuid = request.draft, request.params["instance_uuid"]
    if spec.kind.own_directory:
        Pool.check_path_free(request.session, spec.target_path, uuid, Pool.label(request.name, request.session))


def check_host(request: Request) -> None:
    """Refuse a type for which the host lacks something."""
    pool_preflight.check(request.session, request.draft, Pool.label(request.name, request.session))


def check_secret(request: Request) -> None:
    """Refuse a secret that libvirt does not have."""
    spec: PoolSpec = request.draft
    label = Pool.label(request.name, request.session)
    if spec.auth is None or not spec.auth.secret or spec.kind.auth is None:
        return
    name, by_uuid = spec.auth.secret, spec.auth.names_uuid
    found = (
        Secret.find(request.session, name)
        if by_uuid
        else Secret.find_by_usage(request.session, _USAGE[spec.kind.auth], name)
    )
    if found is None:
        what = f"secret {'with UUID' if by_uuid else 'for'} {name} of {label}"
        raise Missing("use", what, "libvirt has none", "Define it, or give auth.password instead of auth.secret.")


CHECKS = (check_name, check_directory, check_host, check_secret)


def create(request: Request) -> None:
    """Find the existing pool, or define ours."""
    if request.external and find_external(Pool, request):
        return
    if not request.external:
        for check in CHECKS:
            check(request)
    spec: PoolSpec = request.spec
    claim(Pool, request, keeping.pool(request))
    uuid = str(request.params["instance_uuid"])
    secret_uuid = _keep_credentials(request, spec, uuid)
    declared.keep_template(request)
    xml = request.render("pool.xml.j2", "storagepool", PoolFacts(uuid, secret_uuid))
    request.record.assign(declared=xml)
    pool = Pool.define(request.session, xml, request.name, uuid)
    pool.autostart(spec.autostart)
    request.record.put(path=pool.path)


def _keep_credentials(request: Request, spec: PoolSpec, uuid: str) -> str:
    """Put the password into a secret of libvirt, and return its UUID; "" without a password.

    The host keeps it on disk, as it keeps the pool: a pool that starts with the host needs it then.
    """
    value = spec.secret_value
    if value is None or spec.kind.auth is None:
        return ""
    secret_uuid = request.identity.uuid("pool secret")
    request.record.put(secret=secret_uuid)
    usage = _USAGE[spec.kind.auth]
    Secret.define(request.session, secret_uuid, usage, f"pool-{uuid}", ephemeral=False).set_value(value)
    return secret_uuid


def configure(pool: Pool, request: Request) -> None:
    """Bring the pool up, after making what it stands on as far as ``build`` lets us; remember what is ours."""
    Build(pool, request.draft.build, request.record.get("formatted") or "", request.record.put).run()


def stop(pool: Pool, request: Request) -> None:
    """Deactivate the pool; guests that use its volumes go on."""
    request.record.assign(stopped=True)
    pool.stop()


def start(pool: Pool, request: Request) -> None:
    """Activate the pool, and read what is in it now."""
    request.record.assign(stopped=None)
    if pool.active:
        pool.refresh()
    else:
        pool.start()


def delete(pool: Pool | None, request: Request) -> None:
    """Undefine the pool; what we made for it goes only when it is empty, and a device's contents only when asked."""
    if pool is not None:
        _delete_source(pool, request)
        _tell_restored(pool, request)
        left = _leave_contents(pool, request)
        pool.stop()
        if request.record.get("built") and not left and not pool.vanished:
            _delete_directory(pool, request)
        pool.undefine()
    elif request.record.get("built"):
        _tell_left(request)
    secret = Secret.find(request.session, request.record.get("secret")) if request.record.get("secret") else None
    if secret is not None:
        secret.undefine()


def _delete_source(pool: Pool, request: Request) -> None:
    if not request.draft.delete_source or not pool.kind.erases:
        return
    formatted = request.record.get("formatted")
    why = "making it was interrupted, so it may be somebody else's" if formatted else "it was not made by this node"
    if formatted == DONE:
        fault = pool.try_start()
        why = fault.reason if fault else erase(pool)
    if why:
        request.record.warn(f"left what pool '{pool.name}' stands on alone: {why}")


def _tell_restored(pool: Pool, request: Request) -> None:
    """Warn of domains made of backups whose disks are in the pool: they belong to no deployment, and stay."""
    names = [] if pool.try_start() is not None else [name for name in pool.volume_names() if is_restored(name)]
    if names:
        request.record.warn(
            f"pool '{pool.name}' goes, but disks of domains that were restored from backups stay in {pool.path}: "
            f"{_listed(pool, names)}. To remove such a domain: virsh undefine --nvram DOMAIN, then its files"
        )


def _tell_left(request: Request) -> None:
    """Warn of a directory of ours whose pool somebody has undefined."""
    path = request.record.get("path") or ""
    if path and request.session.shares_files and Path(path).is_dir():
        request.record.warn(f"left directory {path} alone: somebody has undefined its pool. Remove it when it is empty")


def _leave_contents(pool: Pool, request: Request) -> list[str]:
    """Warn of what stays in the pool's directory, and return it; what is mounted there goes out of sight by a stop."""
    if pool.is_mount:
        pool.stop()
    left = pool.contents()
    if left:
        request.record.warn(f"left directory {pool.path} of pool '{pool.name}' alone: it holds {_listed(pool, left)}")
    return left


def _listed(pool: Pool, names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(_described(pool, name) for name in names[:NAMED]) + more


def _described(pool: Pool, name: str) -> str:
    """Return a name of the pool's directory, with those who use that volume."""
    volume = Volume.find(pool, name) if not pool.is_mount and pool.try_start() is None else None
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
