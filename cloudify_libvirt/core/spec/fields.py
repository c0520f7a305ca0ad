"""Field types that several devices share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from cloudify_libvirt.core import units
from cloudify_libvirt.core.spec.base import line

_CPU_SET = re.compile(r"\^?\d+(-\d+)?(,\^?\d+(-\d+)?)*")


def option(description: str) -> Any:
    """Return a field that may be absent."""
    return Field(default=None, description=description)


def shorthand(key: str) -> BeforeValidator:
    """Return the validator that takes a bare value for the mapping ``{key: value}``."""

    def read(value: object) -> object:
        return value if isinstance(value, Mapping) else {key: value}

    return BeforeValidator(read)


def switched(**when_true: Any) -> BeforeValidator:
    """Return the validator that takes true for a mapping, and false for nothing."""

    def read(value: object) -> object:
        if isinstance(value, Mapping):
            return value
        return dict(when_true) if units.read_bool(value) else None

    return BeforeValidator(read)


def cpu_set(value: object) -> str:
    """Return a set of CPUs or nodes in libvirt's form. Source: basictypes.rng, cpuset."""
    text = line(value).replace(" ", "")
    if not _CPU_SET.fullmatch(text):
        raise ValueError("must be a set such as 0-3,5 (or 0-7,^2)")
    return text


def members(text: str) -> set[int]:
    """Return the numbers of a set such as ``0-3,^2``."""
    found: set[int] = set()
    for item in text.split(","):
        first, _, last = item.removeprefix("^").partition("-")
        numbers = set(range(int(first), int(last or first) + 1))
        found = found - numbers if item.startswith("^") else found | numbers
    return found


def within(least: int, most: int) -> Callable[[object], int]:
    """Return the reader of a whole number between two bounds."""

    def read(value: object) -> int:
        number = units.read_int(value)
        if not least <= number <= most:
            raise ValueError(f"must be {least} to {most}")
        return number

    return read


CpuSet = Annotated[str, BeforeValidator(cpu_set)]
PortNumber = Annotated[int, BeforeValidator(within(1, 65535))]
