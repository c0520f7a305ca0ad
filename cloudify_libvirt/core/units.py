"""Sizes, numbers and booleans as blueprints write them; bytes inside the core.

Each ``parse_*`` names the field in its error. Each ``read_*`` raises ``ValueError`` with the reason only,
for models that know the path of the field themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

from cloudify_libvirt.core.errors import Conflict, InvalidSpec

KIB = 1024
MIB = 1024**2

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b|bytes?)?", re.ASCII | re.IGNORECASE)
_INT = re.compile(r"[+-]?\d+", re.ASCII)
_LIMIT = 2**63
_UNITS = "KiB, MiB, GiB, TiB (powers of 1024), KB, MB, GB, TB (powers of 1000), K, M, G, T (as KiB ...) and B"
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}

T = TypeVar("T")


def read_size(value: object) -> int:
    """Return the bytes of a size such as ``2 GiB``.

    A bare K, M, G or T counts powers of 1024. Source: https://libvirt.org/formatdomain.html#memory-allocation
    """
    if isinstance(value, int | float):
        raise ValueError("say the unit, as in '512 MiB' or '2 GiB'")
    text = value.strip() if isinstance(value, str) else ""
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] and not match[2]) or (len(match[4] or "") > 1 and match[2]):
        raise ValueError(f"a size is a number and a unit; the units are {_UNITS}")
    number, prefix, binary, byte = match.groups()
    if not prefix and not byte:
        raise ValueError("say the unit, as in '512 MiB' or '2 GiB'")
    base = 1024 if binary or not byte else 1000
    size = -int(-Fraction(number) * base ** _POWERS[prefix.lower()] // 1)
    if size >= _LIMIT:
        raise ValueError("the size is over 8 EiB, the most that libvirt can count")
    return size


def read_bool(value: object) -> bool:
    """Return the truth that ``value`` says; strings count, so "false" is False."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str):
        text = str(value).strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
    raise ValueError("must be true or false (also yes/no, on/off, 1/0)")


def read_int(value: object) -> int:
    """Return the whole number that ``value`` says; "1024" and 1024.0 count."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 40 and _INT.fullmatch(value.strip()):
        return int(value)
    raise ValueError("must be a whole number")


def read_seconds(value: object) -> float:
    """Return the seconds that ``value`` says, more than 0; "0.5" counts."""
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError("must be a number of seconds above 0")
    return seconds


def _named(read: Callable[[object], T], value: object, field: str) -> T:
    try:
        return read(value)
    except ValueError as error:
        raise InvalidSpec("read", field, f"{error}, not {value!r}") from error


def parse_size(value: object, field: str) -> int:
    """Return the bytes of a size such as ``2 GiB``.

    Raises:
        InvalidSpec: no unit, an unknown unit, or not a size.
    """
    return _named(read_size, value, field)


def parse_bool(value: object, field: str) -> bool:
    """Return the truth that ``value`` says.

    Raises:
        InvalidSpec: not one of true/false, yes/no, on/off, 1/0; also for the empty string.
    """
    return _named(read_bool, value, field)


def parse_int(value: object, field: str) -> int:
    """Return the whole number that ``value`` says.

    Raises:
        InvalidSpec: not a whole number.
    """
    return _named(read_int, value, field)


def parse_seconds(value: object, field: str) -> float:
    """Return the seconds that ``value`` says.

    Raises:
        InvalidSpec: not a number above 0.
    """
    return _named(read_seconds, value, field)


def to_kib(size_bytes: int) -> int:
    """Return KiB, rounded up."""
    return -(-size_bytes // KIB)


def to_mib_rounded_up(size_bytes: int) -> int:
    """Return MiB, rounded up."""
    return -(-size_bytes // MIB)


def human_size(size_bytes: int) -> str:
    """Return the size for people, with one decimal at most: ``2 GiB``."""
    size, unit = Fraction(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < KIB:
            break
        size, unit = size / KIB, larger
    return f"{float(size):.1f}".removesuffix(".0") + f" {unit}"


def whole_kib(size_bytes: int) -> int:
    """Return the size rounded up to KiB: qcow2 has whole sectors, and libvirt tells qemu-img a size in KiB."""
    return -(-size_bytes // KIB) * KIB


def check_growth(action: str, target: str, now_bytes: int, wanted_bytes: int, whose: str = "its") -> None:
    """Raise ``Conflict`` when the wanted size would cut something off a disk or image."""
    if wanted_bytes < now_bytes:
        reason = f"{human_size(wanted_bytes)} is less than {whose} {human_size(now_bytes)}; shrinking would lose data"
        raise Conflict(action, target, reason, "Give a larger size, or none.")
