"""What cloud-init gets: texts and mappings that may hold secrets, so they never show in repr or errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator

from cloudify_libvirt.core.spec.base import Part, line

# RFC 1123 names. Source: https://www.rfc-editor.org/rfc/rfc1123#section-2
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


def host_name(value: object) -> str:
    """Return a host name, with or without a domain."""
    if len(line(value)) > 253 or not all(_LABEL.fullmatch(label) for label in line(value).split(".")):
        raise ValueError("a host name has letters, digits, '-' and '.'")
    return line(value)


def _document(value: object) -> dict[str, Any] | str:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, str):
        return value
    raise ValueError("must be a mapping or text")


def _keys(value: object) -> object:
    keys = [value] if isinstance(value, str) else value
    if isinstance(keys, list | tuple) and all(isinstance(key, str) and key.strip() for key in keys):
        return tuple(line(key.strip()) for key in keys)
    raise ValueError("must be a list of public keys, one line each")


Document = Annotated[dict[str, Any] | str, PlainValidator(_document)]


class CloudInit(Part):
    """The seed of a guest's first boot."""

    hostname: Annotated[str, BeforeValidator(host_name)] | None = Field(
        default=None, description="Host name of the guest; the domain's name when absent."
    )
    user_data: Document | None = Field(
        default=None, repr=False, description="cloud-config as a mapping, or any user data as text."
    )
    meta_data: Document | None = Field(default=None, repr=False, description="Meta data, added to ours.")
    network_config: Document | None = Field(
        default=None, repr=False, description="Network configuration, version 1 or 2; DHCP when absent."
    )
    ssh_authorized_keys: Annotated[tuple[str, ...], BeforeValidator(_keys)] = Field(
        default=(), repr=False, description="Public keys that may log in as the default user."
    )
