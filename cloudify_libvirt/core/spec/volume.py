"""What a user may ask for of a storage volume, and of an image (a file with an operating system)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from cloudify_libvirt.core import units
from cloudify_libvirt.core.spec.base import Count, Flag, Line, Name, Part, Size, Spec, dsl, line, missing, strict

_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://.+")

VolumeFormat = Literal["raw", "qcow2", "dir"]
ImageFormat = Literal["raw", "qcow2", "tar"]
ImageMode = Literal["overlay", "clone"]


def checksum(value: object) -> str:
    """Return a checksum as ``algorithm:digits`` in lower case; bare digits name theirs by length."""
    algorithm, _, digits = line(value).strip().lower().rpartition(":")
    if not algorithm:
        algorithm = next((name for name, length in _HEX_DIGITS.items() if length == len(digits)), "")
    if len(digits) != _HEX_DIGITS.get(algorithm) or not re.fullmatch("[0-9a-f]+", digits):
        raise ValueError(f"a checksum is ALGORITHM:HEX, with one of {', '.join(_HEX_DIGITS)}")
    return f"{algorithm}:{digits}"


def location(value: object) -> str:
    """Return a path, or a URL of a scheme that can be fetched."""
    match = _SCHEME.fullmatch(line(value))
    if match and match[1].lower() not in ("http", "https", "file"):
        raise ValueError("must be a path, or a URL that begins with http://, https:// or file://")
    return line(value)


def _image(value: object) -> object:
    return value if isinstance(value, Mapping) else {"source": value}


Location = Annotated[str, BeforeValidator(location)]
Checksum = Annotated[str, BeforeValidator(checksum)]
_IMAGE = "A path or URL, or {source, checksum, pool, size, mode, format}."
_MODE = "overlay: a thin copy above the cached image; clone: a full copy."


class Image(Part):
    """A file with an operating system, to make a volume from."""

    source: Location = Field(description="Path or URL of the image.")
    checksum: Checksum | None = Field(default=None, description="ALGORITHM:HEX of the file as it is fetched.")
    pool: Name | None = Field(default=None, description="Pool for the image; that of its user when absent.")
    size: Size | None = Field(default=None, description="Size of the disk made from it; the image's own when absent.")
    mode: ImageMode = Field(default="overlay", description=_MODE)
    format: ImageFormat | None = Field(default=None, description="raw, qcow2 or tar; detected when absent.")


ImageField = Annotated[Image, BeforeValidator(_image)]


class VolumeSpec(Spec):
    """A storage volume."""

    path: Line = Field(default="", description="Path on the hypervisor's host; output only.",
                       json_schema_extra=dsl(default=""))  # fmt: skip
    pool: Name = Field(default="", description="Pool of the volume; required.", json_schema_extra=dsl("string"))
    capacity: Count | None = Field(default=None, description="Size in MiB; see also size.",
                                   json_schema_extra=dsl("integer"))  # fmt: skip
    allocation: Count = Field(default=0, description="MiB to allocate at once; 0 is thin.",
                              json_schema_extra=dsl("integer", 0))  # fmt: skip
    url: Location = Field(default="", description="http(s) URL of the content; sets capacity and allocation.",
                          json_schema_extra=dsl("string", ""))  # fmt: skip
    zero_wipe: Flag = Field(default=False, description="Overwrite allocation MiB with zeros at the first start.",
                            json_schema_extra=dsl("boolean", False))  # fmt: skip
    size: Size | None = Field(default=None, description="Size with its unit, as in '20 GiB'; wins over capacity.",
                              json_schema_extra=dsl("string"))  # fmt: skip
    format: VolumeFormat | None = Field(default=None, description="raw, qcow2 or dir; that of the content, else raw.",
                                        json_schema_extra=dsl("string"))  # fmt: skip
    image: ImageField | None = Field(default=None, description=_IMAGE)
    checksum: Checksum | None = Field(default=None, description="ALGORITHM:HEX of the file at url or image.",
                                      json_schema_extra=dsl("string"))  # fmt: skip
    mode: ImageMode | None = Field(default=None, description=_MODE, json_schema_extra=dsl("string"))

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> VolumeSpec:
        if self.url and self.image:
            raise missing("image", "url and image are two sources; give one of them")
        if self.zero_wipe and self.format not in (None, "raw"):
            raise missing("zero_wipe", "only a raw volume can be overwritten; a new qcow2 reads as zeros anyway")
        if not strict(info):
            return self
        if not self.pool:
            raise missing("pool", "a volume needs the name of its pool")
        if not (self.capacity or self.size or self.content or self.format == "dir"):
            raise missing("size", "a volume needs size (as in '20 GiB'), capacity (in MiB), image or url")
        return self

    @property
    def content(self) -> Image | None:
        """What fills the volume: ``image`` or ``url``, with the volume's own size, checksum, mode and format."""
        if self.image is None and not self.url:
            return None
        image = self.image or Image(source=self.url, mode="clone")
        own: dict[str, Any] = {"size": self.size, "checksum": self.checksum, "mode": self.mode}
        return image.model_copy(update={name: value for name, value in own.items() if value is not None})

    @property
    def capacity_bytes(self) -> int | None:
        """The wanted size; None means that of the content."""
        if self.size is None and self.capacity:
            return self.capacity * units.MIB
        return self.size

    @property
    def allocation_bytes(self) -> int:
        """What to allocate at once."""
        return self.allocation * units.MIB
