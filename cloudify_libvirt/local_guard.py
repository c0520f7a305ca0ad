"""Local mode's engine lets one workflow at a time at a deployment.

cfy itself locks nothing: a second install of a deployment removes the state of the first under its hands. ``install``
puts a claim around what the engine does anyway. cfy loads this module at its start, as it looks for functions of
blueprints (entry points of the group cloudify.tosca.ext.functions); the engine's own modules are not complete then.

Source: cloudify.workflows.local and dsl_parser.functions of 7.0
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from cloudify_libvirt import busy, local_engine, local_inputs, local_remains, local_retreat, local_room

_ENGINE = "cloudify.workflows.local"
# Defined last there.
_COMPLETE = "StorageConflictError"
_GUARDED = {
    "DeploymentStorage": ("store_execution", "execution_ended"),
    "FileStorage": (
        "remove_deployment", "remove_blueprint", "get_blueprint", "get_deployment", "get_node_instances",
        "store_blueprint", "store_deployment", "store_executions",
    ),
    "_Storage": ("create_deployment", "create_blueprint"),
}  # fmt: skip


def install() -> bool:
    """Guard the engine, once; False while its module is not there, or is another than the known one."""
    local = sys.modules.get(_ENGINE)
    if local is None or not _is_known(local):
        return False
    if not hasattr(local.DeploymentStorage.store_execution, "guards"):
        _wrap(local.DeploymentStorage, "store_execution", _executing)
        _wrap(local.DeploymentStorage, "execution_ended", _executed)
        _wrap(local.FileStorage, "remove_deployment", local_remains.removing)
        _wrap(local.FileStorage, "get_blueprint", local_remains.reading)
        _wrap(local.FileStorage, "get_deployment", local_remains.reading)
        _wrap(local.FileStorage, "get_node_instances", local_remains.reading_instances)
        _wrap(local.FileStorage, "store_blueprint", local_remains.storing)
        executions = functools.partial(local_remains.storing_executions, local.JSONEncoderWithDatetime)
        _wrap(local.FileStorage, "store_executions", executions)
        for name in ("remove_deployment", "store_blueprint", "store_deployment"):
            _wrap(local.FileStorage, name, _writing)
        for name in ("remove_deployment", "remove_blueprint"):
            _wrap(local.FileStorage, name, local_retreat.removing)
        for name in ("get_blueprint", "get_deployment"):
            _wrap(local.FileStorage, name, local_retreat.reading)
        _wrap(local._Storage, "create_deployment", _creating)
        _wrap(local._Storage, "create_blueprint", local_engine.parsing)
        begins = functools.partial(local_retreat.beginning, local.init_env)
        vars(local)["init_env"] = functools.wraps(local.init_env)(begins)
    return True


def _is_known(local: Any) -> bool:
    """Tell whether the engine's module is complete, and has all that is guarded."""
    if not all(hasattr(local, name) for name in (_COMPLETE, "init_env", "JSONEncoderWithDatetime", *_GUARDED)):
        return False
    return all(hasattr(getattr(local, owner), name) for owner, names in _GUARDED.items() for name in names)


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    engines = getattr(owner, name)

    @functools.wraps(engines)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        return local_room.naming(functools.partial(around, engines), self, *args, **kwargs)

    guarded.guards = True  # type: ignore[attr-defined]
    setattr(owner, name, guarded)


def _executing(engines: Any, storage: Any, execution_id: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
    local_engine.lighten()
    home = _home(storage)
    if home:
        busy.claim(home, storage.name, f"workflow {ctx['workflow_id']}")
        local_retreat.working(home, storage.name, ctx["workflow_id"])
    stored = False
    try:
        engines(storage, execution_id, ctx, *args, **kwargs)
        stored = True
    finally:
        if home and not stored:
            busy.release(home, storage.name)


def _executed(engines: Any, storage: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return local_room.ending(engines, storage, *args, **kwargs)
    finally:
        if home := _home(storage):
            busy.release(home, storage.name)


def _writing(engines: Any, storage: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    busy.claim(storage._root_storage_dir, name, "cfy init or uninstall")
    try:
        return engines(storage, name, *args, **kwargs)
    finally:
        busy.release(storage._root_storage_dir, name)


def _creating(
    engines: Any, storage: Any, name: str, blueprint_name: str, inputs: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Read inputs of a command line as the blueprint declares them."""
    declared = (storage.get_blueprint(blueprint_name) or {}).get("plan", {}).get("inputs") or {}
    return engines(storage, name, blueprint_name, local_inputs.typed(declared, inputs), *args, **kwargs)


def _home(storage: Any) -> str:
    """Return the directory of a deployment's storage; "" of one in memory."""
    return str(getattr(storage._storage, "_root_storage_dir", "") or "")


_waiting = [True]


def _look_again(event: str, _args: Any) -> None:
    """Guard the engine as soon as it is complete: it opens a deployment's file before it changes anything of it."""
    if _waiting and event == "open" and install():
        _waiting.clear()


def plugin_version(*_: Any, **__: Any) -> str:
    """Return the plugin's version: what the entry point is there for, by its name."""
    from cloudify_libvirt import __version__

    return __version__


if not install():
    sys.addaudithook(_look_again)
