"""Specs as templates see them. Pure."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.core.spec.base import Part

_SECRET = {"cloud_init", "content", "encryption"}


def plain(part: Part) -> dict[str, Any]:
    """Return the fields for templates: "" for None, mappings for parts, lists for tuples; no secrets."""
    names = (name for name in type(part).model_fields if name != "extra" and name not in _SECRET)
    return {**{name: _plain_value(getattr(part, name)) for name in names}, **part.extra}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Part):
        return plain(value)
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return "" if value is None else value
