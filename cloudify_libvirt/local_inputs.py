"""Inputs of a command line as the blueprint declares them: ``cfy install -i machines=4`` gives the text "4".

Pure. Only what can be meant in one way is read; anything else is left for the engine to refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_BOOLEANS = {"true": True, "false": False}


def typed(declared: Mapping[str, Any], inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return inputs with texts read where a number, a boolean, a list or a mapping is declared."""
    kinds = {name: (one or {}).get("type") for name, one in declared.items()}
    return {name: _read(kinds.get(name), value) for name, value in (inputs or {}).items()}


def _read(kind: Any, value: Any) -> Any:
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    return reader(value.strip(), value) if reader and isinstance(value, str) else value


def _integer(text: str, value: str) -> Any:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else value


def _float(text: str, value: str) -> Any:
    return float(text) if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", text) else value


def _boolean(text: str, value: str) -> Any:
    return _BOOLEANS.get(text.lower(), value)


def _collection(kind: type) -> Callable[[str, str], Any]:
    def read(text: str, value: str) -> Any:
        try:
            found = json.loads(text)
        except ValueError:
            return value
        return found if isinstance(found, kind) else value

    return read


_READERS: dict[str, Callable[[str, str], Any]] = {
    "integer": _integer, "float": _float, "boolean": _boolean, "list": _collection(list), "dict": _collection(dict),
}  # fmt: skip
