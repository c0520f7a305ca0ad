"""libvirt-python, imported at its first use.

The engine imports every operation's module when it reads a blueprint; a host without libvirt must
then still get a readable answer, and only from the operation that needs it.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _LazyModule:
    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if self._module is None:
            self._module = _load(self._name)
        found = getattr(self._module, attribute)
        setattr(self, attribute, found)
        return found


def _load(name: str) -> ModuleType:
    from cloudify_libvirt.core.errors import LibraryMissing

    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise LibraryMissing(
            "load",
            f"the Python module {name}",
            str(error),
            "Install libvirt's client library and binding: apt-get install libvirt0, then pip install libvirt-python.",
        ) from error
    # libvirt's default handler prints each error to stderr, besides raising it.
    module.registerErrorHandler(lambda _context, _error: None, None)
    return module


libvirt: Any = _LazyModule("libvirt")
