"""What a cfy that was killed left of the state that it was writing or removing: the next one takes it for nothing.

The engine writes a blueprint's and a deployment's files in place, and stumbles over what it finds half written, or
half removed: ``cfy install`` then fails until somebody removes directories by hand.

Source: cloudify.workflows.local.FileStorage and cloudify_cli.commands.init of 7.0
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def reading(engines: Callable[..., Any], storage: Any, name: str) -> Any:
    """Read a blueprint or deployment; None, as of one that is not there, when its file was cut off."""
    try:
        return engines(storage, name)
    except ValueError:
        return None


def reading_instances(engines: Callable[..., Any], storage: Any, name: str, node_id: Any = None) -> Any:
    """Read all instances; those stored before a kill kept the others from it have no relationships with these."""
    found = engines(storage, name, node_id=node_id)
    known = {one["id"] for one in found} if node_id is None else set()
    for one in found if node_id is None else ():
        links = one.get("relationships") or []
        if any(link["target_id"] not in known for link in links):
            one["relationships"] = [link for link in links if link["target_id"] in known]
    return found


def storing(engines: Callable[..., Any], storage: Any, name: str, *args: Any) -> Any:
    """Store a blueprint, which the engine does when it knows none of the name: what lies there is no blueprint."""
    shutil.rmtree(Path(storage._root_storage_dir, "blueprints", name), ignore_errors=True)
    return engines(storage, name, *args)


def storing_executions(encoder: Any, _engines: Callable[..., Any], storage: Any, name: str, executions: Any) -> None:
    """Replace the list of executions in one step: half of it would be read as none."""
    path = Path(storage._root_storage_dir, "deployments", name, "executions.json")
    draft = path.with_name(".executions.json")
    draft.write_text(json.dumps(executions, indent=4, cls=encoder), encoding="utf-8")
    draft.replace(path)


def removing(engines: Callable[..., Any], storage: Any, name: str, *args: Any) -> Any:
    """Remove a deployment's state; fine when it is gone."""
    if not Path(storage._root_storage_dir, "deployments", name).exists():
        return None
    return engines(storage, name, *args)
