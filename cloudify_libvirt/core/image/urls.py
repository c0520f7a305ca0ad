"""URLs without what may be secret in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

# Parameters that are, or hold, the place of an image or of its checksum.
_LOGIN = re.compile(r"//[^/\s]*@")
_PLACES = frozenset({"image", "url", "checksum"})


def public_url(url: str) -> str:
    """Return the URL without what may be secret: user, password, query."""
    parts = _split(url)
    if parts is None or not parts.scheme:
        return _cut(url)
    # A path may hold the URL of another server, as a mirror's does.
    path = _LOGIN.sub("//", parts.path)
    return f"{parts.scheme}://{_host(parts.netloc)}{path}" + ("?..." if parts.query else "")


def without_login(url: str) -> str:
    """Return the URL without user and password."""
    parts = _split(url)
    if parts is None:
        return _cut(url)
    return parts._replace(netloc=_host(parts.netloc)).geturl() if "@" in parts.netloc else url


def _split(url: str) -> SplitResult | None:
    """Return the parts; None for what is no URL, as with a password that has a slash."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for what is no port
    except ValueError:
        return None
    return parts


def _cut(url: str) -> str:
    """Return a text that is no URL without what may be a login: all up to its last @."""
    start, mark, rest = url.partition("//")
    return f"{start}{mark}{rest.rpartition('@')[2]}" if mark else url


def recordable(params: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as they may be stored: no login in an image's URL.

    What ``properties`` have is read there again, so that its query, which may be a token, is left out too.
    """
    return {
        key: _changed(value, public_url if value == properties.get(key) else without_login) if key in _PLACES else value
        for key, value in params.items()
    }


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _changed(item, change) for key, item in value.items()}
    return change(value) if isinstance(value, str) and "://" in value else value
