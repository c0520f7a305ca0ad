"""Keeps secrets out of a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lxml import etree

from cloudify_libvirt.core.image.urls import public_url
from cloudify_libvirt.core.parse import document
from cloudify_libvirt.planning.compare import ABSENT

SECRET = "(not shown)"
# Parameters that are, or hold, what nobody shall read; and keys that say it of themselves, of any plugin.
_ROOTS = frozenset({"cloud_init", "files", "files_raw", "content", "encryption", "auth"})
_KEYS = re.compile(r"passw|passphrase|secret|token|private_?key|credential|api_?key|user_data", re.IGNORECASE)
# These name a secret of libvirt, which is none.
_NAMES = frozenset({"secret", "secret_uuid", "encryption_secret"})
_PLACES = frozenset({"image", "url", "source", "checksum", "file"})
_STEP = re.compile(r"[^.\[\]]+")
_SHORTEST = 6


def is_secret(path: str) -> bool:
    """Tell whether a value at that path ("params.auth.password") is not to be shown."""
    steps = _STEP.findall(path.removeprefix("params."))
    return bool(steps) and (steps[0] in _ROOTS or _says_so(steps))


def _says_so(steps: list[str]) -> bool:
    return any(_KEYS.search(step) for step in steps if step not in _NAMES)


def shown(path: str, value: Any) -> Any:
    """Return a property's value as a plan shows it; None for what is not there."""
    if value is ABSENT or value is None:
        return None
    if is_secret(path):
        return SECRET
    if isinstance(value, Mapping):
        return {key: shown(f"{path}.{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown(f"{path}[{at}]", item) for at, item in enumerate(value)]
    if isinstance(value, str) and ("://" in value or _PLACES.intersection(_STEP.findall(path))):
        return public_url(value)
    return value


def secrets(value: Any, path: str = "") -> Iterator[str]:
    """Yield the texts of values that are not to be shown; short ones would be found everywhere."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from secrets(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from secrets(item, path)
    elif isinstance(value, str) and len(value) >= _SHORTEST and _says_so(_STEP.findall(path)):
        yield value


def without(value: Any, texts: Mapping[str, str]) -> Any:
    """Return a value with texts in it replaced."""
    if isinstance(value, str):
        for text, instead in texts.items():
            value = value.replace(text, instead)
        return value
    if isinstance(value, Mapping):
        return {key: without(item, texts) for key, item in value.items()}
    return [without(item, texts) for item in value] if isinstance(value, list) else value


def public_xml(xml: str) -> str:
    """Return a document without the passwords of its screens."""
    root = document(xml)
    for element in root.iter():
        if isinstance(element.tag, str) and "passwd" in element.attrib:
            element.set("passwd", SECRET)
    etree.indent(root)
    return str(etree.tostring(root, encoding="unicode"))
