"""The files of an installed deployment of local mode, changed as a whole: a kill leaves the old state or the new.

The order of the steps keeps the engine able to read the deployment in between: an instance never names a node, a
relationship or another instance that is not there.

Source: cloudify.workflows.local.FileStorage of 7.0
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cloudify.exceptions import NonRecoverableError
from cloudify.workflows import local

from cloudify_libvirt import local_room
from cloudify_libvirt.engine import repeated_runs

Json = Mapping[str, Any]


class LocalState:
    """One deployment as the engine stores it; ``ctx`` is a workflow's context."""

    def __init__(self, ctx: Any) -> None:
        """Look for the files.

        Raises:
            NonRecoverableError: the deployment is not in files of local mode.
        """
        storage: Any = getattr(ctx.internal.handler, "storage", None)
        if not isinstance(getattr(storage, "_storage", None), local.FileStorage):
            text = "this workflow is local mode's own: a Manager has its own for that (cfy deployments update, scale)"
            raise NonRecoverableError(text)
        self._storage, self._files = storage, storage._storage
        self.name: str = storage.name

    @property
    def home(self) -> str:
        """Return the directory of all deployments."""
        return str(self._files._root_storage_dir)

    @property
    def deployment(self) -> dict[str, Any]:
        """Return what is stored of the deployment."""
        return dict(self._files.get_deployment(self.name))

    @property
    def blueprint(self) -> dict[str, Any]:
        """Return what is stored of its blueprint."""
        return dict(self._files.get_blueprint(self._storage.blueprint_name))

    def instances(self) -> list[dict[str, Any]]:
        """Return what is stored of its instances."""
        return [dict(one) for one in self._files.get_node_instances(self.name)]

    def repeated(self, execution_id: str) -> list[dict[str, Any]]:
        """Return the runs of the last hour that did not succeed and that this one repeats, the latest first."""
        return repeated_runs(self._storage, execution_id, failed=True)

    def put(self, **attributes: Any) -> None:
        """Store attributes of the deployment, in one step; None removes one."""
        stored = {**self.deployment, **attributes}
        kept = {key: value for key, value in stored.items() if value is not None or key not in attributes}
        _replace(self._directory / "deployment.json", kept)
        # The engine keeps a copy for outputs, inputs and groups.
        self._storage.deployment = self._files.get_deployment(self.name)

    def add(self, instances: Iterable[Json]) -> None:
        """Store new instances, those that are there already excepted."""
        known = {one["id"] for one in self.instances()}
        for one in instances:
            if one["id"] not in known:
                fresh = {"version": 0, "runtime_properties": {}, "system_properties": {}, "relationships": [], **one}
                fresh["node_id"] = fresh.get("node_id") or fresh["name"]
                self._files.store_instance(self.name, local.NodeInstance(fresh))

    def link(self, linked: Mapping[str, Iterable[Json]]) -> None:
        """Give instances relationships that they do not have yet."""
        for one in self.instances():
            had = [link_key(link) for link in one.get("relationships") or []]
            new = [link for link in linked.get(one["id"], ()) if link_key(link) not in had]
            if new:
                self._relate(one, [*(one.get("relationships") or []), *map(dict, new)])

    def unlink(self, unlinked: Mapping[str, Iterable[Json]]) -> None:
        """Take relationships from instances."""
        for one in self.instances():
            lost = [link_key(link) for link in unlinked.get(one["id"], ())]
            kept = [link for link in one.get("relationships") or [] if link_key(link) not in lost]
            if len(kept) != len(one.get("relationships") or []):
                self._relate(one, kept)

    def remove(self, gone: Collection[str]) -> None:
        """Forget instances: first that others refer to them, then themselves."""
        found = self.instances()
        for one in found:
            kept = [link for link in one.get("relationships") or [] if link["target_id"] not in gone]
            if len(kept) != len(one.get("relationships") or []):
                self._relate(one, kept)
        for one in found:
            if one["id"] in gone:
                Path(self._files._instance_path(self.name, one["id"])).unlink(missing_ok=True)

    def take_blueprint(self, blueprint: Json) -> None:
        """Store another blueprint with a copy of its directory; the old copy goes when the new one counts."""
        directory = Path(self.home, "blueprints", self._storage.blueprint_name)
        old = Path(self.blueprint["resources"])
        new = directory / ("resources-2" if old.name == "resources" else "resources")
        shutil.rmtree(new, ignore_errors=True)
        with local_room.named(str(new)):
            shutil.copytree(blueprint["resources"], new, ignore=_not_itself(directory))
        _replace(directory / "blueprint.json", {**blueprint, "id": self._storage.blueprint_name, "resources": str(new)})
        if old.parent == directory:
            shutil.rmtree(old, ignore_errors=True)

    @property
    def _directory(self) -> Path:
        return Path(self.home, "deployments", self.name)

    def _relate(self, instance: Json, relationships: list[Any]) -> None:
        changed = {**instance, "relationships": relationships, "version": int(instance.get("version") or 0) + 1}
        self._files.store_instance(self.name, local.NodeInstance(changed))


def _not_itself(directory: Path) -> Any:
    """Return what keeps a copy out of itself, where the blueprint's directory holds the engine's own."""

    def ignored(source: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(source, name).absolute() == directory.absolute()]

    return ignored


def link_key(link: Json) -> tuple[str, str]:
    """Return what tells one of an instance's relationships from its others."""
    return str(link["type"]), str(link["target_id"])


def _replace(path: Path, content: Json) -> None:
    """Replace a file in one step; inputs may hold what only its owner may read."""
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with local_room.named(str(path)):
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=4, cls=local.JSONEncoderWithDatetime)
        draft.replace(path)
