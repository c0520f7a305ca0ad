"""What a user calls the listed parts of a network or pool, where one kind of element stands in several lists. Pure."""

from __future__ import annotations

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.drift.rules import key, local

# Kind of object -> (path of the elements, the list's name).
_LISTS = {
    "network": (("forward/interface", "forwards[0].interfaces"),),
    "pool": (
        ("source/host", "source.hosts"),
        ("{*}mount_opts/{*}option", "source.mount_options"),
        ("{*}config_opts/{*}option", "source.options"),
    ),
}


def names(kind: str, *documents: str) -> dict[str, str]:
    """Return the names of listed parts by their kind and key, of all documents; "" is none."""
    return {
        f"{local(element)} {key(element)}": f"{called}[{key(element)}]"
        for text in documents
        if text
        for path, called in _LISTS.get(kind, ())
        for element in parse.document(text).findall(path)
    }
