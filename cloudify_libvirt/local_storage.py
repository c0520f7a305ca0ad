"""Local mode's state files: read with less work, and replaced whole instead of being emptied first.

The engine copies each instance that it has just parsed, rebuilds every map of it to look for dates, reads the whole
deployment for one node, and overwrites state files in place: a process that is killed meanwhile leaves half a file.
``improve`` exchanges the methods concerned for equal ones without that; it steps aside when the engine's own are not
those that it knows.

Source: cloudify.workflows.local of cloudify-common 7.0
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

from cloudify.workflows import local
from pydantic_core import from_json

from cloudify_libvirt import local_room

# Of the sources of the methods below, as of cloudify-common 7.0.5.
_KNOWN = "df40d7f5cfffe49d9a372114ef1b2f9a9c0f662735ba213af055e5c6237592e7"
_REPLACED = (
    (local.FileStorage, "_instance_path"),
    (local.FileStorage, "load_instance"),
    (local.FileStorage, "store_instance"),
    (local.FileStorage, "load_node"),
    (local.DeploymentStorage, "get_node_instance"),
    (local.DeploymentStorage, "get_node"),
    (local.DeploymentStorage, "update_node_instance"),
    (local.DeploymentStorage, "_lock"),
)
_DATE = b'"__datetime__"'
_MOST_DEPLOYMENTS = 8
_MOST_INSTANCES = 10_000
_PAGE = 4096

_engine: dict[str, Any] = {
    name: getattr(local.DeploymentStorage, name, None)
    for name in ("get_node_instance", "get_node", "update_node_instance")
}

# Deployment file -> what tells that it is unchanged, and its nodes, each as bytes: read back, every reader has its own.
_nodes: dict[Path, tuple[tuple[int, int, int], dict[str, bytes]]] = {}
# Instance file -> the same, and its content. The clock of a file system has ticks of some milliseconds: only that one
# process at a time runs a deployment's workflow makes two writes within one tick the writer's own.
_instances: dict[str, tuple[tuple[int, int, int], bytes]] = {}
_remembering = threading.Lock()


def digest() -> str:
    """Return the digest of the engine's methods that ``improve`` replaces; "" where they cannot be read."""
    try:
        sources = "".join(inspect.getsource(getattr(owner, name)) for owner, name in _REPLACED)
    except (AttributeError, OSError, TypeError):
        return ""
    return hashlib.sha256(sources.encode()).hexdigest()


def improve() -> bool:
    """Replace the engine's methods, once; False when they are not those that are known here."""
    if local.FileStorage.load_instance is load_instance:
        return True
    if digest() != _KNOWN:
        return False
    for owner, name in _REPLACED:
        setattr(owner, name, globals()[name])
    return True


def _instance_path(self: Any, deployment_id: str, node_instance_id: str) -> str:
    """Return the file of an instance."""
    return _path(self._root_storage_dir, deployment_id, node_instance_id)


@functools.lru_cache(maxsize=_MOST_INSTANCES)
def _path(root: str, deployment_id: str, node_instance_id: str) -> str:
    return os.path.join(root, "deployments", deployment_id, "node-instances", f"{node_instance_id}.json")  # noqa: PTH118


def _parse(content: bytes) -> Any:
    if _DATE in content:
        return local.NodeInstance(json.loads(content, object_hook=local.load_datetime))
    try:
        return local.NodeInstance(from_json(content))
    except ValueError:
        # Deeper than it goes, or not JSON: that is for the engine's own reader to say.
        return local.NodeInstance(json.loads(content))


def load_instance(self: Any, deployment_id: str, node_instance_id: str) -> Any:
    """Read one instance; its file is read again only when it has changed."""
    path = self._instance_path(deployment_id, node_instance_id)
    known, stamp = _instances.get(path), _stamp(os.stat(path))  # noqa: PTH116 - often
    if known is not None and known[0] == stamp:
        return _parse(known[1])
    with open(path, "rb") as file:  # noqa: PTH123 - often
        content = file.read()
    with _remembering:
        # Changed while it was read, it is read again the next time; written meanwhile, what was written counts.
        if _instances.get(path) is known:
            _remember(path, stamp, content)
    return _parse(content)


@functools.cache
def _encoder() -> json.JSONEncoder:
    encoder: json.JSONEncoder = local.JSONEncoderWithDatetime()
    return encoder


def _remember(path: str, stamp: tuple[int, int, int], content: bytes) -> None:
    if len(_instances) >= _MOST_INSTANCES:
        _instances.clear()
    _instances[path] = (stamp, content)


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mtime_ns, found.st_size, found.st_ino


def store_instance(self: Any, deployment_id: str, instance: Any) -> Any:
    """Replace one instance's file in one step."""
    path = self._instance_path(deployment_id, instance.id)
    data = _encoder().encode(instance).encode()
    with _remembering:
        _remember(path, _overwritten(path, data) or _replaced(Path(path), instance.id, data), data)
    return local.NodeInstance(instance)


def _replaced(path: Path, name: str, data: bytes) -> tuple[int, int, int]:
    # Beside the directory, as the engine takes every file in it for an instance's.
    temporary = path.parent.parent / f".{name}.json"
    try:
        with local_room.named(str(path)):
            temporary.write_bytes(data)
            stamp = _stamp(temporary.stat())
            temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return stamp


def _overwritten(path: str, data: bytes) -> tuple[int, int, int] | None:
    """Overwrite a file where old and new content share one page, which no signal can part; else return None.

    A shorter content is filled up with blanks, which JSON allows. Five times as fast as a new file.
    """
    try:
        file = os.open(path, os.O_WRONLY)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(file).st_size
        if max(size, len(data)) > _PAGE:
            return None
        content = data.ljust(size)
        # Cut short, as by a quota, it is for a whole new file to say what is wrong.
        return _stamp(os.fstat(file)) if os.write(file, content) == len(content) else None
    finally:
        os.close(file)


def load_node(self: Any, deployment_id: str, node_id: str) -> Any:
    """Read one node; the deployment's file is parsed again only when it has changed."""
    path = Path(self._root_storage_dir, "deployments", deployment_id, "deployment.json")
    unchanged = _stamp(path.stat())
    known = _nodes.get(path)
    if known is None or known[0] != unchanged:
        if len(_nodes) >= _MOST_DEPLOYMENTS:
            _nodes.clear()
        nodes = self.get_deployment(deployment_id)["nodes"]
        known = _nodes[path] = (unchanged, {key: pickle.dumps(dict(node)) for key, node in nodes.items()})
    return local.Node(pickle.loads(known[1][node_id]))


def get_node_instance(self: Any, node_instance_id: str, evaluate_functions: bool = False) -> Any:
    """Return one instance, for the caller to change."""
    if evaluate_functions or not isinstance(self._storage, local.FileStorage):
        return _engine["get_node_instance"](self, node_instance_id, evaluate_functions)
    with self._lock(node_instance_id):
        return self._storage.load_instance(self.name, node_instance_id)


def get_node(self: Any, node_id: str, evaluate_functions: bool = False) -> Any:
    """Return one node, for the caller to change."""
    if evaluate_functions or not isinstance(self._storage, local.FileStorage):
        return _engine["get_node"](self, node_id, evaluate_functions)
    return self._storage.load_node(self.name, node_id)


def update_node_instance(
    self: Any,
    node_instance_id: str,
    version: int | None,
    runtime_properties: Any = None,
    system_properties: Any = None,
    state: str | None = None,
    relationships: Any = None,
    force: bool = False,
) -> Any:
    """Store what changed of an instance, unless another version of it was changed."""
    if not isinstance(self._storage, local.FileStorage):
        changed = (runtime_properties, system_properties, state, relationships, force)
        return _engine["update_node_instance"](self, node_instance_id, version, *changed)
    with self._lock(node_instance_id):
        instance = self._storage.load_instance(self.name, node_instance_id)
        had = instance.get("version", 0)
        if not force and state is None and version != had:
            text = (
                f"version {version} does not match current version of node instance {node_instance_id} which is {had}"
            )
            raise local.StorageConflictError(text)
        instance["version"] = had + 1
        given = {"runtime_properties": runtime_properties, "system_properties": system_properties, "state": state}
        instance.update({key: value for key, value in given.items() if value is not None})
        return self._storage.store_instance(self.name, instance)


def _lock(self: Any, instance_id: str) -> Any:
    """Return an instance's lock, which is there as long as somebody holds it."""
    with self._main_instances_lock:
        return self._instance_locks.setdefault(instance_id, threading.RLock())
