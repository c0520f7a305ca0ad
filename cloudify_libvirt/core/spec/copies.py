"""Which recorded parameters are only what a property once said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What is written into the entries of ``networks`` beside what the user gave.
_FILLED = ("mac", "dev", "addrs")


def only_copied(key: str, value: Any, seen: Mapping[str, Any], today: Mapping[str, Any]) -> bool:
    """Tell whether a recorded value is the copy of a property as it was ``seen``, so that that of ``today`` counts.

    A property that is gone counts as gone. MACs and addresses that were filled in do not make another value; they are
    kept as long as the property stays.
    """
    if key not in seen:
        return False
    if key != "networks" or today.get(key) == seen[key]:
        return bool(seen[key] == value)
    return bool(_given(value, seen[key]) == seen[key])


def _given(value: Any, seen: Any) -> Any:
    """Return the entries without what was filled in."""
    if not isinstance(value, list) or not isinstance(seen, list) or len(value) < len(seen):
        return value
    if not all(isinstance(entry, dict) for entry in (*value, *seen)):
        return value
    # Cards that were found beyond the list have nothing but what is filled in.
    if any(set(entry) - set(_FILLED) for entry in value[len(seen) :]):
        return value
    pairs = zip(value, seen, strict=False)
    return [{k: v for k, v in entry.items() if k in one or k not in _FILLED} for entry, one in pairs]
