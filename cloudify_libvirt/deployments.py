"""The deployments of local mode, as their files tell: looked at, never written, and without the engine.

Source: cloudify.workflows.local.FileStorage and cloudify_cli.env of 7.0
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

# A running workflow's, and a killed one's: nobody writes the end of that.
_UNDER_WAY = frozenset({"pending", "started"})


def default_home() -> str:
    """Return the directory where this user's cfy keeps its blueprints and deployments."""
    base = Path(os.environ.get("CFY_WORKDIR") or Path.home())
    return str((base / ".cloudify/profiles/local").absolute())


def lives(home: str, deployment: str, instance: str) -> bool | None:
    """Tell whether that instance is one of a deployment; None where that cannot be seen.

    Raises:
        OSError: the files are there, but not for us.
    """
    if not home or not _exists(Path(home)):
        # A directory that is not mounted now would make everything look forsaken.
        return None
    # A cfy install that was killed while it read the blueprint has laid it aside.
    places = (_deployment(home, deployment), Path(home) / "aside" / deployment / "deployments")
    return any(_exists(place / "node-instances" / f"{instance}.json") for place in places)


def installing(home: str, deployment: str) -> bool:
    """Tell whether a workflow of the deployment runs, or was killed: what it did not find yet, it may find."""
    path = _deployment(home, deployment)
    if not home or not _exists(path):
        return False
    try:
        executions = json.loads((path / "executions.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        # Made a moment ago: its first workflow is not written down yet.
        return True
    except ValueError:
        return True
    newest = max(executions, key=lambda one: str(one.get("created_at")), default=None)
    return newest is None or newest.get("status") in _UNDER_WAY


def still_for_s(home: str) -> float:
    """Return for how long no deployment has come or gone there: ``cfy install`` removes an old one's state first."""
    newest = 0.0
    for name in ("blueprints", "deployments"):
        with suppress(FileNotFoundError):
            newest = max(newest, (Path(home) / name).stat().st_mtime)
    return max(0.0, time.time() - newest)


def _deployment(home: str, deployment: str) -> Path:
    return Path(home) / "deployments" / deployment


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def instances(home: str, deployment: str) -> list[dict[str, Any]]:
    """Return what is stored of each instance of a deployment.

    Raises:
        OSError: there is no such deployment, or it is not for us.
    """
    files = _deployment(home, deployment) / "node-instances"
    names = sorted(path.name for path in files.iterdir() if path.suffix == ".json")
    return [json.loads((files / name).read_text(encoding="utf-8")) for name in names]
