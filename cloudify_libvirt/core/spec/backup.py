"""What the operations of backups may ask for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from cloudify_libvirt.core import units
from cloudify_libvirt.core.backup.plan import FULL_EVERY
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec.base import Flag, Line, Part

PREFIX = "backup_"
# Inputs that begin so, but belong to other operations.
_OTHERS = frozenset({"backup_file", "backup_template"})

Count = Annotated[int, BeforeValidator(units.read_int), Field(ge=0)]


class BackupSpec(Part):
    """One call; in inputs each key has the prefix ``backup_``."""

    dir: Line = Field(default="", description="Directory of the backups; the property of that name when absent.")
    pool: Line = Field(default="", description="Pool for the backups, in place of a directory.")
    uri: Line = Field(default="", description="Host of that pool; the node's own when absent.")
    point: Line = Field(default="", description="Name of the point: by the time, or the newest, when absent.")
    kind: Literal["auto", "full", "incremental"] = Field(default="auto", description="auto: an increment if right.")
    quiesce: Flag | None = Field(default=None, description="Freeze file systems through the agent; if it can.")
    timeout_s: Count = Field(default=3600, description="How long the copying may take.")
    full_every: Count = Field(default=FULL_EVERY, description="Most points of one chain.")
    staging_pool: Line = Field(default="", description="Pool that data passes on its way; that of a disk when absent.")
    exclude: tuple[Line, ...] = Field(default=(), description="Targets of disks to leave out, as in vdb.")
    content: Flag = Field(default=False, description="Record the checksum of what a guest sees; reads all again.")
    deep: Flag = Field(default=False, description="Verify by putting each disk together.")
    allow_stop: Flag = Field(default=False, description="A running guest may be stopped for a restore, and goes on.")
    new_name: Line = Field(default="", description="Restore to a new domain of this name, which is not this node's.")
    keep_last: Count = Field(default=0, description="Rotation: that many of the newest points.")
    keep_daily: Count = Field(default=0, description="Rotation: the newest of each of that many days.")
    keep_weekly: Count = Field(default=0, description="Rotation: the newest of each of that many weeks.")
    keep_monthly: Count = Field(default=0, description="Rotation: the newest of each of that many months.")

    @property
    def rotates(self) -> bool:
        """Tell whether old points are to go."""
        return any((self.keep_last, self.keep_daily, self.keep_weekly, self.keep_monthly))


def parse_backup(inputs: Mapping[str, Any], *, node: str) -> BackupSpec:
    """Return the spec of one call's inputs; those without our prefix are not ours.

    Raises:
        InvalidSpec: an unknown key, or a wrong value.
    """
    known = {f"{PREFIX}{name}": name for name in BackupSpec.model_fields if name != "extra"}
    for key in inputs:
        if key.startswith(PREFIX) and key not in known and key not in _OTHERS:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"The keys are {', '.join(known)}."
            raise InvalidSpec("read", f"{key} of node {node}", "there is no such key", remedy)
    try:
        return BackupSpec.model_validate({known[key]: value for key, value in inputs.items() if key in known})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = f"{PREFIX}{'.'.join(map(str, first['loc']))} of node {node}"
        raise InvalidSpec("read", path, first["msg"].removeprefix("Value error, ")) from None
