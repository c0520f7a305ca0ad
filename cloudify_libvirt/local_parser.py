"""The blueprint's parser with less work: libyaml reads plain documents.

``improve`` steps aside when the engine's own loader is not the known one, and every document that libyaml might see
otherwise than the engine's own loader, and every error, is left to that one.

Source: dsl_parser.yaml_loader of cloudify-common 7.0
"""

from __future__ import annotations

import functools
import re
from typing import Any

import yaml
from dsl_parser import yaml_loader

from cloudify_libvirt.local_known import digest_of

# Of the source of its module, as of cloudify-common 7.0.5.
_KNOWN = "689b90148c54b57e6d5278dc19952c131c5f5e159dc0ec94e93a75f33291648e"
# Where the two scanners agree on every value and every mark. They do not on a text without a last newline, on tags,
# directives and escapes, on what may follow | and >, on ? in a name, and on where an empty value in braces ends.
_PLAIN = re.compile(r"(?!.*(?:[!?%@\\]|(?<![^\s\[{,:-])[|>](?![ \n])|:\s*[],}]))[\n\x20-\x7e]*\n", re.DOTALL)

_engine_load = getattr(yaml_loader, "load", None)


def digest() -> str:
    """Return the digest of the engine's loader's source; "" where it cannot be read."""
    return digest_of(yaml_loader)


def improve() -> bool:
    """Replace the engine's loader, once; False when it is not the known one, or libyaml is missing."""
    if yaml_loader.load is load:
        return True
    if not yaml.__with_libyaml__ or digest() != _KNOWN:
        return False
    yaml_loader.load = load
    return True


def load(stream: Any, filename: str | None) -> Any:
    """Return a document as the engine keeps it, each value with its lines and columns."""
    if isinstance(stream, str) and _PLAIN.fullmatch(stream):
        try:
            found = _loader()(stream, filename).get_single_data()
        except (yaml.YAMLError, ValueError):
            # The engine's own says it in its own words.
            found = None
        if found is not None:
            return found
    return _engine_load(stream, filename)  # type: ignore[misc]


@functools.cache
def _loader() -> Any:
    # Typed as Any, as it is only there with libyaml.
    scanner: Any = vars(yaml.cyaml)["CParser"]

    class Loader(scanner, yaml_loader.HolderConstructor, yaml.resolver.Resolver):  # type: ignore[misc]
        def __init__(self, stream: str, filename: str | None) -> None:
            scanner.__init__(self, stream)
            yaml_loader.HolderConstructor.__init__(self, filename)
            yaml.resolver.Resolver.__init__(self)

    return Loader
