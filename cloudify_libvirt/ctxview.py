"""What a template sees of the engine's context: values, read-only, nothing that acts."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any


def view(ctx: Any) -> SimpleNamespace:
    """Return the fields of ``ctx`` that templates for the existing plugin read."""
    instance = SimpleNamespace(
        id=ctx.instance.id, runtime_properties=copy.deepcopy(dict(ctx.instance.runtime_properties))
    )
    node = SimpleNamespace(id=ctx.node.id, name=ctx.node.name, properties=copy.deepcopy(dict(ctx.node.properties)))
    return SimpleNamespace(
        instance=instance,
        node=node,
        deployment=SimpleNamespace(id=ctx.deployment.id),
        blueprint=SimpleNamespace(id=getattr(ctx.blueprint, "id", "")),
    )
