"""Specs as templates see them. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cloudify_libvirt.core.spec.base import Part

_SECRET = {"cloud_init", "content", "encryption"}


def plain(part: Part) -> dict[str, Any]:
    """Return the fields for templates: "" for None, mappings for parts, lists for tuples; no secrets."""
    values = vars(part)
    return {**{name: _plain_value(values[name]) for name in _names(type(part))}, **part.extra}


@lru_cache(maxsize=256)
def _names(kind: type[Part]) -> tuple[str, ...]:
    return tuple(name for name in kind.model_fields if name != "extra" and name not in _SECRET)


def _plain_value(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, Part):
        return plain(value)
    return [_plain_value(item) for item in value] if isinstance(value, tuple) else value
