"""The engine's messages about operations, with less work.

The engine makes a whole context for every message of a task, to read a dozen names from it. ``improve`` steps aside
when the engine's modules are not the known ones; what is not an ordinary operation on a node is left to the engine.

Source: cloudify.logs and cloudify.context of cloudify-common 7.0
"""

from __future__ import annotations

from typing import Any

from cloudify import context, logs

from cloudify_libvirt.local_known import digest_of

# Of the sources of the modules, as of cloudify-common 7.0.5.
_KNOWN = "917a70fbfe5cb0f1998e2ccfe5ba9079c6290f79c3e6feb502b8e11f2b9e5645"
# As logs.message_context_from_cloudify_context has them.
_NAMES = (
    "blueprint_id", "deployment_id", "execution_id", "workflow_id", "task_id", "task_name", "task_queue", "task_target",
)  # fmt: skip

_engine_event = getattr(logs, "send_task_event", None)


def digest() -> str:
    """Return the digest of the engine's two modules; "" where they cannot be read."""
    return digest_of(logs, context)


def improve() -> bool:
    """Replace the engine's function, once; False when its modules are not the known ones."""
    if logs.send_task_event is send_task_event:
        return True
    if digest() != _KNOWN:
        return False
    logs.send_task_event = send_task_event
    return True


def send_task_event(
    cloudify_context: Any,
    event_type: str,
    message: str | None = None,
    args: Any = None,
    additional_context: Any = None,
    out_func: Any = None,
) -> None:
    """Send a message about an operation, with the names that tell which it is."""
    given = cloudify_context
    if not given.get("local") or not given.get("node_id") or "related" in given:
        _engine_event(given, event_type, message, args, additional_context, out_func)  # type: ignore[misc]
        return
    told = {name: given.get(name) for name in _NAMES}
    told["operation"] = (given.get("operation") or {}).get("name")
    told["plugin"] = given.get("plugin", {}).get("name", "")
    told["tenant"] = {"name": given.get("tenant", {}).get("name")}
    told["node_id"], told["node_name"] = given["node_id"], given.get("node_name")
    logs._send_event(told, event_type, message, args, additional_context, out_func)
