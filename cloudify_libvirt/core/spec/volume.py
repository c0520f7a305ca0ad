"""What a user may ask for of a storage volume, and of an image (a file with an operating system)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from cloudify_libvirt.core import units
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.image import checksum as checksums
from cloudify_libvirt.core.spec.base import (
    Count,
    Flag,
    Line,
    Name,
    Part,
    Size,
    Spec,
    Text,
    Uuid,
    dsl,
    line,
    missing,
    strict,
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://.+")

VolumeFormat = Literal["raw", "qcow2", "dir"]
ImageFormat = Literal["raw", "qcow2", "tar"]
ImageMode = Literal["overlay", "clone"]
# Source: qemu-img(1), preallocation of raw and qcow2
Preallocation = Literal["off", "metadata", "falloc", "full"]


def checksum(value: object) -> str:
    """Return a checksum as ``algorithm:digits`` in lower case, or the URL or path of a list of checksums."""
    try:
        return str(checksums.Checksum.parse(line(value)))
    except InvalidSpec:
        forms = f"ALGORITHM:HEX, with one of {', '.join(checksums.HEX_DIGITS)}, or the URL of a list such as SHA256SUMS"
        raise ValueError(f"a checksum is {forms}") from None


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
_IMAGE = "A name of the catalogue (debian-12), path or URL, or {source, checksum, pool, size, mode, format, ...}."
_MODE = "overlay: a thin copy above the cached image; clone: a full copy."


class Image(Part):
    """A file with an operating system, to make a volume from."""

    source: Location = Field(description="Path or URL of the image, or its name in the catalogue (debian-12).")
    checksum: Checksum | None = Field(
        default=None, description="ALGORITHM:HEX of the file as it is served, or the URL of a list such as SHA256SUMS."
    )
    pool: Name | None = Field(default=None, description="Pool for the image; that of its user when absent.")
    size: Size | None = Field(default=None, description="Size of the disk made from it; the image's own when absent.")
    mode: ImageMode = Field(default="overlay", description=_MODE)
    format: ImageFormat | None = Field(
        default=None, description="raw, qcow2 or tar; detected when absent. raw is never looked into."
    )
    max_size: Size | None = Field(default=None, description="Most that is fetched or decompressed; 64 GiB when absent.")
    catalogue: Line | None = Field(default=None, description="File of the blueprint that adds names of images.")


ImageField = Annotated[Image, BeforeValidator(_image)]


def read_content(value: object) -> bytes:
    """Return the bytes of a text, of {text} or of {base64}."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) or not isinstance(value, Mapping):
        value = {"text": value}
    (kind, given), *more = value.items() if value else (("", ""),)
    if more or kind not in ("text", "base64") or not isinstance(given, str):
        raise ValueError("must be a text, {text: ...} or {base64: ...}")
    try:
        return given.encode() if kind == "text" else base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64 (RFC 4648), without line breaks") from None


def local_file(value: object) -> str:
    """Return an absolute path of the machine that runs the operations."""
    if not line(value).startswith("/"):
        raise ValueError("must be an absolute path on the machine that runs the operations")
    return line(value)


class SourceVolume(Part):
    """An existing volume to make another one from."""

    volume: Name = Field(description="Name of the volume.")
    pool: Name | None = Field(default=None, description="Its pool; that of the new volume when absent.")
    format: Literal["raw", "qcow2"] | None = Field(default=None, description="What it is; known of volumes of ours.")


def _source_volume(value: object) -> object:
    return value if isinstance(value, Mapping) else {"volume": value}


class Encryption(Part):
    """How a volume is encrypted (LUKS); the key is kept in a secret of libvirt, and nowhere else."""

    passphrase: Text | None = Field(default=None, repr=False, description="The key, as from get_secret.")
    passphrase_file: Annotated[str, BeforeValidator(local_file)] | None = Field(
        default=None, description="File with the key, readable by its owner alone, where the operations run."
    )
    secret: Uuid | None = Field(default=None, description="Existing secret of libvirt that holds the key.")
    ephemeral: Flag = Field(default=True, description="false: the host keeps the key over restarts of the daemon.")

    @model_validator(mode="after")
    def _one_key(self, info: ValidationInfo) -> Encryption:
        given = sum(map(bool, (self.passphrase, self.passphrase_file, self.secret)))
        if given > 1 or (strict(info) and not given):
            raise missing("passphrase", "give one of passphrase, passphrase_file and secret")
        return self


_ENCRYPTION = "{passphrase | passphrase_file | secret, ephemeral}: encrypt with LUKS."
_SOURCES = ("image", "url", "file", "content", "source_volume")


# libvirt makes an id of QEMU's of the name. Source: storage_util.c (storageBackendCreateQemuImgSecretObject)
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


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
    preallocation: Preallocation = Field(
        default="off", description="off (thin), metadata, falloc (space reserved) or full (zeros written).",
        json_schema_extra=dsl("string", "off"),
    )  # fmt: skip
    image: ImageField | None = Field(default=None, description=_IMAGE)
    file: Annotated[str, BeforeValidator(local_file)] | None = Field(
        default=None, description="File to copy into the volume, where the operations run.",
        json_schema_extra=dsl("string"),
    )  # fmt: skip
    content: Annotated[bytes, BeforeValidator(read_content)] | None = Field(
        default=None, repr=False, description="A text, or {base64}: what the volume holds."
    )
    source_volume: Annotated[SourceVolume, BeforeValidator(_source_volume)] | None = Field(
        default=None, description="Existing volume to copy or lay an overlay on: its name, or {pool, volume, format}."
    )
    checksum: Checksum | None = Field(default=None, description="ALGORITHM:HEX of the file at url, file or image.",
                                      json_schema_extra=dsl("string"))  # fmt: skip
    mode: ImageMode | None = Field(default=None, description=_MODE, json_schema_extra=dsl("string"))
    encryption: Encryption | None = Field(default=None, description=_ENCRYPTION)
    wipe_on_delete: Flag = Field(default=False, description="Overwrite what was written, before it is deleted.",
                                 json_schema_extra=dsl(default=False))  # fmt: skip

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> VolumeSpec:
        self._check_sources()
        self._check_preallocation()
        self._check_encryption()
        if self.zero_wipe and self.format not in (None, "raw"):
            raise missing("zero_wipe", "only a raw volume can be overwritten; a new qcow2 reads as zeros anyway")
        if not strict(info):
            return self
        if not self.pool:
            raise missing("pool", "a volume needs the name of its pool")
        if self.encryption and self.name and not _IDENTIFIER.fullmatch(self.name):
            reason = "an encrypted volume's name begins with a letter, and has only letters, digits, '.', '_' and '-'"
            raise missing("name", reason)
        if not (self.capacity or self.size or self.sources or self.format == "dir"):
            raise missing("size", "a volume needs size (as in '20 GiB'), capacity (in MiB), image or url")
        return self

    @property
    def sources(self) -> list[str]:
        """The keys that say what fills the volume: one, or none."""
        return [key for key in _SOURCES if getattr(self, key) not in (None, "")]

    def _check_sources(self) -> None:
        if len(self.sources) > 1:
            first, second, *_ = self.sources
            raise missing(first, f"{second} and {first} are two sources; give one of them")
        if self.format == "dir" and self.sources:
            raise missing("format", "a directory cannot be filled")
        if self.is_overlay and self.format == "raw":
            raise missing("format", "an overlay is qcow2; for a raw volume take mode: clone")
        if self.mode == "overlay" and self.sources and not self.is_overlay:
            raise missing("mode", f"an overlay needs image, url, file or source_volume, not {self.sources[0]}")

    def _check_preallocation(self) -> None:
        if self.preallocation == "off":
            return
        if self.is_overlay or self.format == "dir":
            raise missing("preallocation", "an overlay or a directory holds only what differs or is put there")
        if self.preallocation == "metadata" and self.format != "qcow2":
            raise missing("preallocation", "only qcow2 has metadata: set format: qcow2, or take falloc")
        if self.preallocation == "full" and (self.sources or self.format == "qcow2"):
            raise missing("preallocation", "full is for an empty raw volume; falloc reserves the space of others, too")

    def _check_encryption(self) -> None:
        if self.encryption is None:
            return
        if self.content is not None:
            raise missing("content", "it would lie in the pool unencrypted before; write it from inside a guest")
        if self.is_overlay or self.format == "dir":
            raise missing("encryption", "only a whole volume (raw or qcow2, mode: clone) can be encrypted")
        if self.zero_wipe:
            raise missing("zero_wipe", "zeros over an encrypted volume destroy its header")
        if self.preallocation != "off" and self.format != "qcow2":
            raise missing("preallocation", "libvirt makes an encrypted raw volume thin; set format: qcow2, or off")

    @property
    def is_overlay(self) -> bool:
        """True for a thin copy above an image or another volume."""
        mode = self.origin.mode if self.origin else self.mode
        return mode == "overlay" and (self.origin or self.source_volume) is not None

    @property
    def origin(self) -> Image | None:
        """The file that fills the volume, from ``image``, ``url`` or ``file``, with the volume's own settings."""
        source = self.url or self.file or ""
        if self.image is None and not source:
            return None
        image = self.image or Image(source=source, mode="clone")
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
        if self.preallocation in ("falloc", "full") and self.capacity_bytes:
            return max(self.capacity_bytes, self.allocation * units.MIB)
        return self.allocation * units.MIB
