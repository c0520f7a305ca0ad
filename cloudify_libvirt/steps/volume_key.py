"""The key of an encrypted volume: from the user to a libvirt secret, and nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from cloudify_libvirt.core.errors import InvalidSpec, Missing, Unsupported
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.secret import Secret
from cloudify_libvirt.core.spec.volume import Encryption
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request


def prepare(request: Request, pool: Pool) -> str:
    """Return the UUID of the secret that holds the key, made now unless it is the user's own; "" without one."""
    wanted = request.spec.encryption
    if wanted is None:
        return ""
    if wanted.secret:
        if Secret.find(request.session, wanted.secret) is None:
            remedy = "Make it, with its value: virsh secret-define, virsh secret-set-value."
            raise Missing("find", f"secret {wanted.secret} of {request.label}", "it does not exist", remedy)
        return str(wanted.secret)
    key = _read(request, wanted)
    uuid = request.identity.uuid("secret")
    request.record.put(secret=uuid)
    _keep(request, uuid, _future_path(request, pool), wanted.ephemeral, key)
    return uuid


def bring_back(request: Request, volume: Volume) -> None:
    """Give the host the key again after its daemon lost it; nothing to do where it has it.

    Raises:
        Missing: the key is not there, and was not given to this operation.
    """
    uuid = request.record.get("secret")
    if not uuid or Secret.find(request.session, uuid) is not None:
        return
    wanted = request.draft.encryption
    if wanted is None or not (wanted.passphrase or wanted.passphrase_file):
        raise Missing(
            "unlock",
            f"the volume of {request.label}",
            "libvirt's daemon ended since, and its key was in memory only",
            "Give params.encryption as an input of this operation, or in the node's properties.",
        )
    _keep(request, uuid, volume.path, wanted.ephemeral, _read(request, wanted))
    # A daemon that started without the secret does not know yet whose it is.
    volume.pool.refresh()
    request.record.note(f"gave the key of {request.label} back to {request.session.uri}")


def forget(request: Request) -> None:
    """Remove the secret that we made; the content cannot be read any more."""
    uuid = request.record.get("secret")
    secret = Secret.find(request.session, uuid) if uuid else None
    if secret is not None:
        secret.undefine()


def _keep(request: Request, uuid: str, path: str, ephemeral: bool, key: bytes) -> None:
    # By the volume's path libvirt finds the secret itself, when it reads the pool anew.
    Secret.define(request.session, uuid, "volume", path, private=True, ephemeral=ephemeral).set_value(key)


def _future_path(request: Request, pool: Pool) -> str:
    if not pool.path:
        reason = f"pool '{pool.name}' does not keep its volumes in files"
        raise Unsupported("encrypt", f"the volume of {request.label}", reason, "Take a pool of type dir, fs or netfs.")
    return str(PurePosixPath(pool.path) / request.name)


def _read(request: Request, wanted: Encryption) -> bytes:
    """Return the key; a file's final line break is not part of it."""
    if wanted.passphrase:
        return wanted.passphrase.encode()
    path = Path(str(wanted.passphrase_file))
    target = f"encryption.passphrase_file of {request.label}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read().removesuffix(b"\n")
    except OSError as error:
        raise InvalidSpec(
            "read", target, f"{path}: {error.strerror}", "Give a file that this user can read."
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidSpec("read", target, f"others than its owner have rights on {path}", f"chmod 600 {path}")
    if not key:
        raise InvalidSpec("read", target, f"{path} is empty", "Write the key into it.")
    return key
