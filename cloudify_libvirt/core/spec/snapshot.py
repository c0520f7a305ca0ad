"""What the operations of snapshots and file backups may ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from cloudify_libvirt.core import units
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec.base import Flag, Line, Part

PREFIX = "snapshot_"
# File names of Linux have at most 255 bytes; ours add a number and an ending.
NAME_MAX_BYTES = 180

Count = Annotated[int, BeforeValidator(units.read_int)]


class SnapshotSpec(Part):
    """One call; in inputs each key has the prefix ``snapshot_``."""

    name: Line = Field(default="", description="Name of the snapshot or backup.")
    incremental: Flag = Field(default=True, description="A snapshot; false makes a backup in files.")
    type: Line = Field(default="irregular", description="Kind of the series, as in daily; its description.")
    rotation: Count = Field(default=-1, description="Keep the newest N of this type, from 2 on; else keep all.")
    rotate: Flag = Field(default=True, description="False: the operation rotate lets old ones go, later.")
    kind: Literal["auto", "internal", "external"] = Field(
        default="auto", description="Inside the disks' files, or as overlays; auto: internal where every disk can."
    )
    memory: Flag | None = Field(default=None, description="Keep the memory; of a running guest when absent.")
    quiesce: Flag | None = Field(default=None, description="Freeze file systems through the agent; if it can.")
    exclude: tuple[Line, ...] = Field(default=(), description="Targets of disks to leave out, as in vdb.")
    children: Flag = Field(default=False, description="Delete the snapshots below, too.")
    restart: Flag = Field(default=False, description="A restored definition takes effect at once, by a restart.")

    @property
    def keeps(self) -> int | None:
        """How many of the series stay; None for all: 1 is what workflows send when nobody asked."""
        return self.rotation if self.rotation > 1 else None


def parse_snapshot(inputs: Mapping[str, Any], *, node: str) -> SnapshotSpec:
    """Return the spec of one call's inputs; those without our prefix or of other tools are not ours.

    Raises:
        InvalidSpec: a wrong value, or a name that is empty or would leave its directory.
    """
    known = {f"{PREFIX}{name}": name for name in SnapshotSpec.model_fields if name != "extra"}
    given = {known[key]: value for key, value in inputs.items() if key in known}
    try:
        spec = SnapshotSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = f"{PREFIX}{'.'.join(map(str, first['loc']))} of node {node}"
        raise InvalidSpec("read", path, first["msg"].removeprefix("Value error, ")) from None
    check_name(spec.name, f"{PREFIX}name of node {node}")
    return spec


def check_name(name: str, label: str) -> str:
    """Return a name that is fit for a snapshot and for a file.

    Raises:
        InvalidSpec: it is empty, too long, or could lead out of a directory.
    """
    reason = ""
    if not name.strip():
        reason = "it is empty"
    elif any(part in (".", "..") for part in re.split(r"[/\\]", name)) or name.startswith(("/", ".")):
        reason = f"{name!r} would leave its directory"
    elif len(name.encode()) > NAME_MAX_BYTES:
        reason = f"it has {len(name.encode())} bytes, more than {NAME_MAX_BYTES}"
    if reason:
        raise InvalidSpec("read", label, reason, "Give a name of letters, digits, '-', '_' and '.'.")
    return name
