"""From a model of core/spec to the rows of tables: key, type, unit, default, description."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

# What a value of blueprints is called, by the name of the function that reads it.
_READ_BY = {
    "read_bool": "boolean",
    "read_int": "integer",
    "read_size": "size",
    "text": "text",
    "line": "text",
    "object_name": "name",
    "interface_name": "interface name",
    "unicast_mac": "MAC address",
    "ipv4": "IPv4 address",
    "ip": "IP address",
    "uuid_text": "UUID",
    "absolute_path": "absolute path",
}
_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "text", dict: "mapping", types.NoneType: ""}
# The unit is the end of a key's name, where the model does not say it in json_schema_extra["unit"].
_UNITS = {"_s": "s", "_ms": "ms", "_kib": "KiB", "_mib": "MiB", "_gib": "GiB", "_bytes": "bytes", "_kib_s": "KiB/s"}


@dataclass(frozen=True)
class Row:
    """One key of a mapping; ``parts`` are the models of the mappings below it."""

    key: str
    type: str
    unit: str
    default: str
    description: str
    input_only: bool
    parts: tuple[type[BaseModel], ...]


def rows(model: type[BaseModel]) -> Iterator[Row]:
    """Yield the keys that a blueprint may give, in the order of declaration."""
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("hidden"):
            continue
        yield Row(
            field.alias or name,
            type_words(field.annotation, tuple(field.metadata)),
            unit(name, field, extra),
            default_words(field),
            field.description or "",
            bool(extra.get("input_only")),
            tuple(dict.fromkeys(parts(field.annotation))),
        )


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


def unit(name: str, field: FieldInfo, extra: dict[str, Any]) -> str:
    """Return the unit of a number; a size is given with its own."""
    if "unit" in extra:
        return str(extra["unit"])
    if _is_size(field.annotation, tuple(field.metadata)):
        return "given with it"
    found = [end for end in _UNITS if name.endswith(end)]
    return _UNITS[max(found, key=len)] if found else ""


def _is_size(annotation: Any, metadata: tuple[Any, ...]) -> bool:
    if any(_reader(item) == "read_size" for item in metadata):
        return True
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _is_size(arguments[0], tuple(arguments[1:]))
    return get_origin(annotation) in (Union, types.UnionType) and any(_is_size(one, ()) for one in arguments)


def default_words(field: FieldInfo) -> str:
    """Return the default as YAML would say it; "required", or nothing where the key may just be absent."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or value in ("", (), {}, []):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def type_words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Return what a blueprint writes for a value of this type."""
    named = next((_READ_BY[name] for item in metadata if (name := _reader(item)) in _READ_BY), "")
    words = named or _words(annotation)
    return words if words == "size" else words + _bounds(metadata)


def _words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0], tuple(arguments[1:]))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments if value != "")
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(type_words, arguments))))
    if origin in (tuple, list):
        return f"list of {_plural(type_words(arguments[0]))}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return _PLAIN.get(annotation, "any")


def _plural(words: str) -> str:
    if words.startswith("`"):
        return words
    return words.replace("mapping or mapping", "mapping") + ("es" if words.endswith("address") else "s")


def _reader(item: Any) -> str:
    return str(getattr(getattr(item, "func", None), "__name__", ""))


def _bounds(metadata: tuple[Any, ...]) -> str:
    """Return the limits of a number, as in ", 1 to 65535"."""
    flat = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else (item,))]
    low = [item.ge for item in flat if getattr(item, "ge", None) is not None]
    high = [item.le for item in flat if getattr(item, "le", None) is not None]
    if high:
        return f", {max(low, default='')} to {min(high)}".replace("  ", " ")
    return ", at least 1" if low and max(low) == 1 else ""


def tag(model: type[BaseModel]) -> str:
    """Return what the key ``type`` must say for a mapping to be of this model, or nothing."""
    field = model.model_fields.get("type")
    values = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    return str(values[0]) if len(values) == 1 else ""


def title(model: type[BaseModel]) -> str:
    """Return the model's first line of documentation, without its full stop."""
    first = (model.__doc__ or model.__name__).strip().splitlines()[0]
    return re.sub(r"\.$", "", first)
