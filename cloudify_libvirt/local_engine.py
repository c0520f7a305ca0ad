"""Local mode's engine made cheaper: the same results with less work, as soon as local mode begins something.

Each part looks whether the engine is the one that it knows, and leaves another alone. None of them is active on a
Manager, which begins nothing through ``cloudify.workflows.local``.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Set to anything, it leaves the engine as it is: to measure it, or to see whether a fault is the engine's own.
SWITCH = "CLOUDIFY_LIBVIRT_STOCK_ENGINE"
# Objects between two collections; Python's own 700 is for processes that go on for days.
_FEW_COLLECTIONS = 50_000
_COPYING = (
    "dsl_parser.framework.elements",
    "dsl_parser.elements.operation",
    "dsl_parser.elements.node_templates",
    "dsl_parser.multi_instance",
    "dsl_parser.rel_graph",
    "dsl_parser.tasks",
    "cloudify.dispatch",
    "cloudify.workflows.local",
    "cloudify.workflows.workflow_context",
)


@functools.cache
def lighten() -> bool:
    """Make the engine cheaper, once; False when it is to stay as it is."""
    if os.environ.get(SWITCH):
        return False
    # Nearly all that a run makes stays to its end, or goes without a collection.
    if 0 < gc.get_threshold()[0] < _FEW_COLLECTIONS:
        gc.set_threshold(_FEW_COLLECTIONS, *gc.get_threshold()[1:])
    from cloudify_libvirt import (
        local_copies,
        local_graph,
        local_lines,
        local_loggers,
        local_messages,
        local_parser,
        local_storage,
    )

    local_copies.take_over(filter(None, map(_module, _COPYING)))
    local_parser.improve()
    local_storage.improve()
    local_messages.improve()
    local_loggers.improve()
    local_graph.improve()
    local_lines.improve()
    return True


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def parsing(engines: Callable[..., Any], storage: Any, *args: Any, **kwargs: Any) -> Any:
    """Parse and store a blueprint."""
    lighten()
    return engines(storage, *args, **kwargs)
