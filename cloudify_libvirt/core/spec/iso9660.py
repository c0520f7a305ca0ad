"""What a user may ask for of an ISO 9660 image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, PlainValidator, ValidationInfo, model_validator

from cloudify_libvirt.core.spec.base import INPUT_ONLY, Line, Name, Spec, dsl, line, missing, strict


def _files(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of paths in the image")
    for path, content in value.items():
        parts = line(path).strip("/").split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise ValueError("a path in the image must not have empty parts, '.' or '..'")
        if isinstance(content, Mapping | list | tuple):
            raise ValueError("the content of a file in the image must be text")
        try:
            str(content).encode()
        except ValueError:
            raise ValueError("the content of a file in the image must be Unicode text") from None
    return {str(path).strip("/"): "" if content is None else str(content) for path, content in value.items()}


Files = Annotated[dict[str, str], PlainValidator(_files)]


class IsoSpec(Spec):
    """An ISO 9660 image in an existing volume."""

    name: Name = Field(default="", description="Not used; runtime properties carry it.", json_schema_extra=INPUT_ONLY)
    volume: Name = Field(default="", description="Existing volume that the image is written into.",
                         json_schema_extra=dsl(default=""))  # fmt: skip
    pool: Name = Field(default="", description="Pool of the volume; required.", json_schema_extra=dsl("string"))
    files: Files = Field(default_factory=dict, repr=False, description="{path in the image: text}.")
    vol_ident: Line = Field(default="cidata", max_length=32, description="Volume identifier.",
                            json_schema_extra=INPUT_ONLY)  # fmt: skip
    sys_ident: Line = Field(default="", max_length=32, description="System identifier.",
                            json_schema_extra=INPUT_ONLY)  # fmt: skip
    files_raw: Files = Field(
        default_factory=dict, description="{path in the image: blueprint resource}; wins over files.",
        json_schema_extra=INPUT_ONLY,
    )  # fmt: skip

    @model_validator(mode="after")
    def _named(self, info: ValidationInfo) -> IsoSpec:
        for key in ("pool", "volume"):
            if strict(info) and not getattr(self, key):
                raise missing(key, f"an ISO image needs the name of its {key}")
        return self
