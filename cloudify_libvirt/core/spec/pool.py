"""What a user may ask for of a storage pool."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cloudify_libvirt.core.spec.base import AbsolutePath, Count, Flag, Spec, dsl


def octal_mode(value: object) -> str:
    """Return a file mode; an integer is refused, because YAML reads 0755 as 493."""
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError("a mode is three octal digits in quotes, as in '0755'")
    return value


class PoolSpec(Spec):
    """A storage pool."""

    path: AbsolutePath | Literal[""] = Field(
        default="", description="Target directory; empty means /var/lib/libvirt/images/<name>.",
        json_schema_extra=dsl(default=""),
    )  # fmt: skip
    capacity: Count | None = Field(default=None, description="GiB; without effect on a directory pool.",
                                   json_schema_extra=dsl("integer"))  # fmt: skip
    type: Literal["dir"] = Field(default="dir", description="Kind of pool.", json_schema_extra=dsl("string", "dir"))
    autostart: Flag = Field(default=True, description="Start the pool with the host.",
                            json_schema_extra=dsl(default=True))  # fmt: skip
    mode: Annotated[str, BeforeValidator(octal_mode)] = Field(
        default="0755", description="Mode of the target directory when libvirt makes it.",
        json_schema_extra=dsl("string", "0755"),
    )  # fmt: skip

    @property
    def target_path(self) -> str:
        """The directory of the pool."""
        return self.path or f"/var/lib/libvirt/images/{self.name}"
