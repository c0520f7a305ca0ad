"""A ``cfy install`` or ``cfy init`` that cannot read its blueprint or inputs leaves what was there before.

The engine forgets a deployment's old state, then reads, then writes the new one: a wrong input would leave an installed
deployment without its state, or a blueprint without a deployment. So the old state is laid aside in ``aside/ID`` while
something of it stands, and comes back unless all is written; after a kill the next cfy brings it back. One cfy at a
time may begin a deployment.

Source: cloudify.workflows.local.init_env and FileStorage, cloudify_cli.commands.init of 7.0
"""

from __future__ import annotations

import atexit
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cloudify_libvirt import busy, local_hints, local_room

_PARTS = ("blueprints", "deployments")
_NOTHING_STANDS = frozenset({"uninitialized", "deleted"})
# (home, deployment) of what this very process has laid aside, and of what it has run a workflow of, which may have
# another name than uninstall: to remove that afterwards, as ``cfy uninstall`` does, is meant.
_begun: set[tuple[str, str]] = set()
_worked: set[tuple[str, str]] = set()


def working(home: str, name: str, workflow: str) -> None:
    """Note that this process runs a workflow of the deployment, after which it may be meant to go."""
    key = (str(Path(home)), name)
    (_worked.discard if workflow == "install" else _worked.add)(key)


def removing(engines: Callable[..., Any], storage: Any, name: str) -> Any:
    """Remove a deployment's state, or its blueprint once that is aside; of an installed one they are laid aside."""
    home = Path(storage._root_storage_dir)
    part = "deployments" if engines.__name__ == "remove_deployment" else "blueprints"
    key = (str(home), name)
    if part == "deployments" and key not in _worked and _stands(home / part / name):
        # Nobody else may take it until it is known whether the new one can be read.
        busy.claim(str(home), name, "cfy install or init")
        if not _begun:
            atexit.register(_have_all_again)
        _begun.add(key)
        shutil.rmtree(home / "aside" / name, ignore_errors=True)
    if key not in _begun:
        return engines(storage, name)
    place = home / "aside" / name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (home / part / name).exists():
        (home / part / name).rename(place / part)
    return None


def _stands(directory: Path) -> bool:
    """Tell whether any instance may have something on a host."""
    for path in (directory / "node-instances").glob("*.json"):
        try:
            if json.loads(path.read_text(encoding="utf-8")).get("state") not in _NOTHING_STANDS:
                return True
        except (OSError, ValueError):
            return True
    return False


def beginning(
    engines: Callable[..., Any], blueprint_path: Any, name: str = "local", inputs: Any = None, storage: Any = None,
    *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """Read and store blueprint and deployment; where that fails, have again what was there."""
    root = getattr(storage, "_root_storage_dir", "")
    if not root:
        return engines(blueprint_path, name, inputs, storage, *args, **kwargs)
    local_room.speak_without_log()
    with _Attempt(Path(root), name, Path(str(blueprint_path))):
        return engines(blueprint_path, name, inputs, storage, *args, **kwargs)


class _Attempt:
    """Reading and storing one blueprint and deployment."""

    def __init__(self, home: Path, name: str, blueprint: Path) -> None:
        self._home, self._name, self._blueprint = home, name, blueprint
        self._new: list[Path] = []

    def __enter__(self) -> None:
        # What is new is removed where this fails: nobody else may begin it meanwhile.
        busy.claim(str(self._home), self._name, "cfy install or init")
        self._new = [path for part in _PARTS if not (path := self._home / part / self._name).exists()]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None:
                for path in self._new:
                    shutil.rmtree(path, ignore_errors=True)
                put_back(self._home, self._name)
                _help(error, self._blueprint)
            _let_go(self._home, self._name)
        finally:
            busy.release(str(self._home), self._name)


def _help(error: BaseException, blueprint: Path) -> None:
    """Add hints, which cfy prints below the message."""
    if not hasattr(error, "possible_solutions") and (found := local_hints.hints(str(error), blueprint)):
        error.possible_solutions = found  # type: ignore[attr-defined]


def reading(engines: Callable[..., Any], storage: Any, name: str) -> Any:
    """Read a blueprint or deployment; one that a killed cfy had laid aside is back first."""
    home = Path(storage._root_storage_dir)
    left = (home / "aside").is_dir() and any((home / "aside" / one).is_dir() for one in (name, f"{name}~"))
    # Who only looks takes no claim, which might refuse somebody else.
    if left and (str(home), name) not in _begun:
        with suppress(busy.DeploymentBusy):
            busy.claim(str(home), name, "cfy")
            try:
                put_back(home, name)
            finally:
                busy.release(str(home), name)
    return engines(storage, name)


def put_back(home: Path, name: str) -> None:
    """Have what is aside again, in place of what was begun; nothing where nothing is aside."""
    for part in _PARTS:
        old = home / "aside" / name / part
        if old.is_dir():
            shutil.rmtree(home / part / name, ignore_errors=True)
            old.rename(home / part / name)
    _drop(home, name)


def _drop(home: Path, name: str) -> None:
    """Remove what is aside: first under a name that nobody brings back, as half of it is worth nothing."""
    place, gone = home / "aside" / name, home / "aside" / f"{name}~"
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):
        place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):
        (home / "aside").rmdir()


def _let_go(home: Path, name: str) -> None:
    """Forget what is aside still, and let others work on the deployment."""
    if (key := (str(home), name)) in _begun:
        _drop(home, name)
        _begun.discard(key)
        busy.release(*key)


def _have_all_again() -> None:
    """At the end of a process that removed and began nothing: what it removed is there again."""
    for home, name in list(_begun):
        put_back(Path(home), name)
        _let_go(Path(home), name)
