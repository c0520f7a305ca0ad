"""What a storage pool stands on: its source, and what each type of pool takes.

Source: https://libvirt.org/storage.html, formatstorage.html, schema storagepool.rng
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, model_validator

from cloudify_libvirt.core import units
from cloudify_libvirt.core.spec.base import AbsolutePath, Flag, Line, Name, Part, line, missing, strict, text

PoolType = Literal[
    "dir", "fs", "netfs", "logical", "disk", "iscsi", "iscsi-direct", "rbd", "zfs", "gluster", "scsi", "mpath"
]
AuthType = Literal["chap", "ceph"]

IMAGES = "/var/lib/libvirt/images"
# What says where the data is; a type takes one or two of them.
_PLACES = ("devices", "target", "dir", "name", "adapter")


@dataclass(frozen=True)
class PoolKind:
    """What one type of pool needs and takes of ``source``, and what stands where.

    ``path`` is the default target directory, "" where there is none; ``fixed_path``: no other is possible.
    ``own_directory``: the target is made for this pool alone. ``builds``: building it writes to the devices;
    ``overwrites``: libvirt can do so over what they hold; ``erases``: it can undo it. ``takes_volumes_away``: a stop
    does, without asking who uses them. ``remote``: its volumes have no path here, and libvirt writes nothing into them;
    ``clones``: a copy of a volume stands on a snapshot of it.
    """

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    path: str = ""
    fixed_path: bool = False
    own_directory: bool = False
    auth: AuthType | None = None
    builds: bool = False
    overwrites: bool = False
    erases: bool = False
    takes_volumes_away: bool = False
    remote: bool = False
    clones: bool = False
    one_device: bool = True
    one_host: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key of ``source`` that the type takes."""
        return (*self.needs, *self.takes)


_FILE_SYSTEMS = (
    *("auto", "ext2", "ext3", "ext4", "ufs", "iso9660", "udf", "gfs", "gfs2", "vfat", "hfs+", "xfs", "ocfs2", "vmfs"),
)
_LABELS = ("unknown", "dos", "dvh", "gpt", "mac", "bsd", "pc98", "sun", "lvm2")
_DIRECTORY = IMAGES + "/{name}"

KINDS: Mapping[str, PoolKind] = {
    "dir": PoolKind(path=_DIRECTORY, own_directory=True),
    "fs": PoolKind(("devices",), ("format", "mount_options"), _FILE_SYSTEMS, _DIRECTORY,
                   own_directory=True, builds=True, overwrites=True),
    "netfs": PoolKind(("hosts", "dir"), ("format", "protocol_version", "mount_options"),
                      ("auto", "nfs", "cifs", "glusterfs"), _DIRECTORY, own_directory=True),
    "logical": PoolKind((), ("name", "devices", "format"), ("unknown", "lvm2"), "/dev/{source}", fixed_path=True,
                        builds=True, overwrites=True, erases=True, one_device=False),
    "disk": PoolKind(("devices",), ("format",), _LABELS, "/dev", builds=True, overwrites=True, erases=True),
    "iscsi": PoolKind(("hosts", "target"), ("initiator",), path="/dev/disk/by-path", auth="chap",
                      takes_volumes_away=True),
    "iscsi-direct": PoolKind(("hosts", "target", "initiator"), auth="chap", remote=True),
    "rbd": PoolKind(("hosts", "name"), ("options",), auth="ceph", remote=True, clones=True, one_host=False),
    "zfs": PoolKind((), ("name", "devices"), builds=True),
    "gluster": PoolKind(("hosts", "name"), ("dir",), remote=True),
    "scsi": PoolKind(("adapter",), path="/dev/disk/by-path", takes_volumes_away=True),
    "mpath": PoolKind(path="/dev/mapper"),
}  # fmt: skip


def _iqn(value: object) -> str:
    if not re.fullmatch(r"iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-zA-Z0-9.\-]+(:.+)?", line(value)):
        raise ValueError("must be an iSCSI name, as in iqn.2024-01.org.example:disks")
    return line(value)


def _wwn(value: object) -> str:
    if not re.fullmatch("(0x)?[0-9a-fA-F]{16}", line(value)):
        raise ValueError("must be a world wide name of 16 hexadecimal digits, in quotes")
    return line(value)


def _host_name(value: object) -> str:
    try:
        return str(ipaddress.ip_address(line(value)))
    except ValueError:
        if not re.fullmatch(r"[a-zA-Z0-9.\-]+", line(value)):
            raise ValueError("must be a host name or an IP address") from None
    return line(value)


def _port(value: object) -> int:
    number = units.read_int(value)
    if not 1 <= number <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return number


def _host(value: object) -> object:
    """Return ``name``, ``name:port``, ``[address]:port`` as a mapping; an IPv6 address alone has no port."""
    if isinstance(value, Mapping):
        return value
    written = line(value)
    found = re.fullmatch(r"\[([^]]*)\](?::(\d+))?|([^:]*):(\d+)", written)
    if found is None:
        return {"name": written}
    return {"name": found[1] or found[3], "port": found[2] or found[4]}


def _list(value: object) -> object:
    return [value] if isinstance(value, str | Mapping) else value


def _password(value: object) -> SecretStr:
    return SecretStr(text(value))


Iqn = Annotated[str, BeforeValidator(_iqn)]
Wwn = Annotated[str, BeforeValidator(_wwn)]


class PoolHost(Part):
    """One server."""

    name: Annotated[str, BeforeValidator(_host_name)] = Field(description="Host name or IP address.")
    port: Annotated[int, BeforeValidator(_port)] | None = Field(
        default=None, description="Port; the protocol's own when absent."
    )


class PoolAdapter(Part):
    """A SCSI host of the hypervisor, or one that it makes on a fibre channel adapter."""

    name: Name | None = Field(default=None, description="SCSI host, as in host2.")
    parent: Name | None = Field(default=None, description="Fibre channel adapter below which the host is made.")
    wwnn: Wwn | None = Field(default=None, description="World wide node name.")
    wwpn: Wwn | None = Field(default=None, description="World wide port name.")
    managed: Flag | None = Field(default=None, description="Remove the made host when the pool stops.")

    @model_validator(mode="after")
    def _one_kind(self, info: ValidationInfo) -> PoolAdapter:
        if self.name and (self.wwnn or self.wwpn or self.parent):
            raise missing("name", "name is for a SCSI host; wwnn, wwpn and parent for fibre channel. Give one kind")
        if strict(info) and not self.name and not (self.wwnn and self.wwpn):
            raise missing("name", "an adapter needs name (as in host2), or wwnn and wwpn")
        return self

    @property
    def type(self) -> str:
        """libvirt's name of the kind."""
        return "scsi_host" if self.name else "fc_host"


Adapter = Annotated[PoolAdapter, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]


class PoolAuth(Part):
    """Credentials for a pool's servers: kept in a secret of libvirt, never in the pool or in our records."""

    type: AuthType | None = Field(default=None, description="chap (iSCSI) or ceph (rbd); that of the pool when absent.")
    username: Line = Field(description="User name; for Ceph without 'client.'.")
    password: Annotated[SecretStr, BeforeValidator(_password)] | None = Field(
        default=None, description="CHAP password, or key of a Ceph user in base64.", repr=False
    )
    secret: Line | None = Field(default=None, description="UUID or usage name of an existing secret of libvirt.")

    @model_validator(mode="after")
    def _one_secret(self, info: ValidationInfo) -> PoolAuth:
        if self.password and self.secret:
            raise missing("secret", "password and secret say the same; give one of them")
        if strict(info) and not (self.password or self.secret):
            raise missing("password", "auth needs password, or the secret of libvirt that holds it")
        return self

    @property
    def names_uuid(self) -> bool:
        """Whether ``secret`` is a UUID, and no usage name."""
        return re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", self.secret or "") is not None


class PoolSource(Part):
    """Where a pool's data is; which keys count depends on the pool's type."""

    hosts: Annotated[tuple[Annotated[PoolHost, BeforeValidator(_host)], ...], BeforeValidator(_list)] = Field(
        default=(), description="Servers, as name, name:port or {name, port}."
    )
    devices: Annotated[tuple[AbsolutePath, ...], BeforeValidator(_list)] = Field(
        default=(), description="Block devices of the hypervisor's host."
    )
    target: Iqn | None = Field(default=None, description="Name of the iSCSI target.")
    dir: Line | None = Field(default=None, description="Exported directory; for Gluster a directory of the volume.")
    name: Name | None = Field(default=None, description="Volume group, ZFS pool, Ceph pool or Gluster volume.")
    format: Line | None = Field(default=None, description="File system, partition table or protocol.")
    adapter: Adapter | None = Field(default=None, description="SCSI host: its name, or {wwnn, wwpn, parent}.")
    initiator: Iqn | None = Field(default=None, description="iSCSI name that the host logs in with.")
    protocol_version: Line | None = Field(default=None, description="Version of NFS, as in 4.2.")
    mount_options: tuple[Line, ...] = Field(default=(), description="Further options of mount.")
    options: dict[str, Line] = Field(default={}, description="Options of the Ceph client.")

    @model_validator(mode="before")
    @classmethod
    def _no_credentials(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "auth" in data:
            raise missing("auth", "credentials stand in params.auth, beside source, because they are never recorded")
        return data

    @property
    def given(self) -> set[str]:
        """The keys that are set."""
        return {name for name in type(self).model_fields if name != "extra" and getattr(self, name)}


def check_source(source: PoolSource, type_: str) -> None:
    """Raise the first thing that a pool of this type cannot take or do without."""
    kind = KINDS[type_]
    for name in PoolSource.model_fields:
        if name in source.given and name not in kind.keys:
            raise missing(f"source.{name}", f"a pool of type {type_} has no such source; {_right(kind)}")
    for name in kind.needs:
        if name not in source.given:
            raise missing(f"source.{name}", f"a pool of type {type_} needs it ({_described(name)})")
    if kind.one_device and len(source.devices) > 1:
        raise missing("source.devices", f"a pool of type {type_} has one device")
    if kind.one_host and len(source.hosts) > 1:
        raise missing("source.hosts", f"a pool of type {type_} has one server")
    _check_format(source, type_, kind)


def _check_format(source: PoolSource, type_: str, kind: PoolKind) -> None:
    if source.format and source.format not in kind.formats:
        raise missing("source.format", f"for a pool of type {type_} it is one of {', '.join(kind.formats)}")
    if type_ != "netfs":
        return
    if source.format not in ("cifs", "glusterfs") and not str(source.dir).startswith("/"):
        raise missing("source.dir", "an NFS server exports an absolute path; Gluster and CIFS need source.format")
    if source.protocol_version and source.format not in (None, "auto", "nfs"):
        raise missing("source.protocol_version", "only NFS has it")


def _right(kind: PoolKind) -> str:
    if not kind.keys:
        return "it takes no source"
    near = next((name for name in _PLACES if name in kind.keys), "")
    return (
        f"did you mean source.{near}? It takes {', '.join(kind.keys)}" if near else f"it takes {', '.join(kind.keys)}"
    )


def _described(name: str) -> str:
    return str(PoolSource.model_fields[name].description).rstrip(".")
