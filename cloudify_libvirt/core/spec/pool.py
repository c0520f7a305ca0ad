"""What a user may ask for of a storage pool."""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from cloudify_libvirt.core.spec.base import AbsolutePath, Count, Flag, Spec, dsl, line, missing, strict
from cloudify_libvirt.core.spec.pool_source import KINDS, PoolAuth, PoolKind, PoolSource, PoolType, check_source

BuildPolicy = Literal["auto", "never", "overwrite"]

DEFAULT_MODE = "0755"
# Names of other tools that are too far from libvirt's to be found by likeness.
_OTHER_TYPES = {
    "directory": "dir", "filesystem": "fs", "ext4": "fs", "xfs": "fs", "nfs": "netfs", "cifs": "netfs",
    "glusterfs": "gluster", "lvm": "logical", "vg": "logical", "ceph": "rbd", "multipath": "mpath", "fc": "scsi",
    "fibre-channel": "scsi", "zpool": "zfs",
}  # fmt: skip


def octal_mode(value: object) -> str:
    """Return a file mode; an integer is refused, because YAML reads 0755 as 493."""
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError("a mode is three octal digits in quotes, as in '0755'")
    return value


def _pool_type(value: object) -> str:
    wanted = line(value)
    if wanted in KINDS:
        return wanted
    near = [_OTHER_TYPES.get(wanted.lower(), "")] if wanted.lower() in _OTHER_TYPES else []
    near = near or difflib.get_close_matches(wanted.lower(), KINDS, n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]!r}?" if near else ""
    raise PydanticCustomError("pool_type", "must be one of {types}", {"types": ", ".join(KINDS), "remedy": remedy})


class PoolSpec(Spec):
    """A storage pool."""

    path: AbsolutePath | Literal[""] = Field(
        default="", description="Target directory; empty means /var/lib/libvirt/images/<name>.",
        json_schema_extra=dsl(default=""),
    )  # fmt: skip
    capacity: Count | None = Field(default=None, description="GiB; without effect on a directory pool.",
                                   json_schema_extra=dsl("integer"))  # fmt: skip
    type: Annotated[PoolType, BeforeValidator(_pool_type)] = Field(
        default="dir", description=f"Kind of pool: {', '.join(KINDS)}.", json_schema_extra=dsl("string", "dir")
    )
    autostart: Flag = Field(default=True, description="Start the pool with the host.",
                            json_schema_extra=dsl(default=True))  # fmt: skip
    mode: Annotated[str, BeforeValidator(octal_mode)] = Field(
        default=DEFAULT_MODE, description="Mode of the target directory when libvirt makes it.",
        json_schema_extra=dsl("string", DEFAULT_MODE),
    )  # fmt: skip
    owner: Count | None = Field(default=None, description="Numeric owner of the target directory.")
    group: Count | None = Field(default=None, description="Numeric group of the target directory.")
    source: PoolSource | None = Field(default=None, description="Where the data is; see the page on pools.")
    auth: PoolAuth | None = Field(
        default=None, description="Credentials for the servers: {username, password} or {username, secret}."
    )
    build: BuildPolicy = Field(
        default="auto",
        description="auto: make what is missing, but format no device that holds anything; never; overwrite.",
        json_schema_extra=dsl("string"),
    )
    delete_source: Flag = Field(
        default=False,
        description="On delete also remove the volume group or partition table that we made, if it is empty.",
    )

    @model_validator(mode="after")
    def _fits_its_type(self, info: ValidationInfo) -> PoolSpec:
        if strict(info):
            check_source(self.wanted_source, self.type)
            self._check_auth()
            self._check_target()
            self._check_policies()
        return self

    def _check_auth(self) -> None:
        if self.auth is None:
            return
        if self.kind.auth is None:
            raise missing("auth", f"a pool of type {self.type} has no credentials; only iscsi, iscsi-direct and rbd do")
        if self.auth.type not in (None, self.kind.auth):
            raise missing("auth.type", f"for a pool of type {self.type} it is {self.kind.auth}")
        try:
            _ = self.secret_value
        except binascii.Error:
            raise missing("auth.password", "the key of a Ceph user is base64, as ceph auth get-key prints it") from None

    def _check_target(self) -> None:
        if self.path and (self.kind.fixed_path or not self.kind.path):
            raise missing("path", f"a pool of type {self.type} has no directory of yours; leave it out")
        changed = [name for name in ("owner", "group") if getattr(self, name) is not None]
        changed += ["mode"] if self.mode != DEFAULT_MODE else []
        if changed and not self.kind.own_directory:
            raise missing(changed[0], "only pools of types dir, fs and netfs have a directory of their own")

    def _check_policies(self) -> None:
        if self.build == "overwrite" and not self.kind.overwrites:
            able = ", ".join(name for name, kind in KINDS.items() if kind.overwrites)
            raise missing("build", f"overwrite is for pools that are formatted ({able}), not for type {self.type}")
        if self.build == "overwrite" and self.type == "fs" and self.wanted_source.format in (None, "auto"):
            raise missing("source.format", "say which file system is to be made, as in ext4")
        if self.delete_source and not self.kind.erases:
            able = ", ".join(name for name, kind in KINDS.items() if kind.erases)
            raise missing("delete_source", f"libvirt can remove the source of pools of type {able} only")

    @property
    def kind(self) -> PoolKind:
        """What the pool's type takes."""
        return KINDS[self.type]

    @property
    def wanted_source(self) -> PoolSource:
        """The source, empty where none is given."""
        return self.source or PoolSource()

    @property
    def source_name(self) -> str:
        """The name that the data has: of the volume group, ZFS pool, Ceph pool, Gluster volume."""
        return self.wanted_source.name or self.name

    @property
    def target_path(self) -> str:
        """The directory of the pool, "" where there is none."""
        return self.path or self.kind.path.format(name=self.name, source=self.source_name)

    @property
    def secret_value(self) -> bytes | None:
        """What goes into libvirt's secret: the password's bytes, or the bytes that a Ceph key stands for."""
        if self.auth is None or self.auth.password is None:
            return None
        password = self.auth.password.get_secret_value().encode()
        return base64.b64decode(password, validate=True) if self.kind.auth == "ceph" else password

    def variables(self, uuid: str, secret_uuid: str) -> dict[str, Any]:
        """Return what the template gets instead of the plain values; ``secret_uuid`` "" means none of ours."""
        found = {"path": self.target_path, "instance_uuid": uuid, "own_directory": self.kind.own_directory}
        return {**found, "source_name": self.source_name, "auth": self._auth(secret_uuid)}

    def _auth(self, secret_uuid: str) -> dict[str, str] | Literal[""]:
        if self.auth is None:
            return ""
        by = "uuid" if secret_uuid or self.auth.names_uuid else "usage"
        secret = secret_uuid or self.auth.secret or ""
        return {"type": str(self.kind.auth), "username": self.auth.username, "by": by, "secret": secret}
