"""The user's ~/.cloudify: prepared for local mode, and afterwards as it was."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

from cloudify_libvirt.cli import local_setup

FILES = ("config.yaml", "active.profile")


def base() -> Path:
    """Return the directory that cfy uses."""
    return Path(os.environ.get("CFY_WORKDIR") or Path.home()) / ".cloudify"


def _digests(directory: Path) -> dict[str, str]:
    files = ((name, directory / name) for name in FILES)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files if path.is_file()}


def _backups(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("config.yaml.bak*")}


def prepare(kept: Path) -> list[str]:
    """Set up the local profile; what was there before is copied to ``kept`` first, once.

    Returns what was changed, a line each.
    """
    cloudify = base()
    first = not kept.exists()
    if first:
        draft = kept.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        for name in _digests(cloudify):
            shutil.copy2(cloudify / name, draft / name)
        note = {"existed": cloudify.exists(), "local": (cloudify / "profiles/local").exists()}
        (draft / "note.json").write_text(json.dumps({**note, "backups": sorted(_backups(cloudify))}))
        draft.rename(kept)
    said = list(local_setup.set_up(cloudify.parent))
    if first or not (kept / "after.json").exists():
        (kept / "after.json").write_text(json.dumps(_digests(cloudify)))
    changes = itertools.takewhile(lambda line: not line.startswith("Imports"), said)
    return [line for line in changes if not line.endswith(("nothing to change", "active already"))]


def restore(kept: Path) -> list[str]:
    """Put back what ``prepare`` changed; return what was left alone, and why."""
    cloudify = base()
    if not (kept / "after.json").exists() or not cloudify.exists():
        return []
    note = json.loads((kept / "note.json").read_text())
    after = json.loads((kept / "after.json").read_text())
    if _has_deployments(cloudify):
        return [f"left {cloudify} in local mode: there are deployments of yours"]
    changed = [name for name, digest in _digests(cloudify).items() if after.get(name) != digest]
    if not note["existed"] and not changed:
        shutil.rmtree(cloudify)
        return []
    for name in FILES:
        _put_back(kept / name, cloudify / name, name in changed)
    for name in _backups(cloudify) - set(note["backups"]):
        (cloudify / name).unlink()
    if not note["local"]:
        shutil.rmtree(cloudify / "profiles/local", ignore_errors=True)
    return [f"left {cloudify / name} alone: it was changed meanwhile" for name in changed]


def _put_back(old: Path, current: Path, is_changed: bool) -> None:
    if is_changed:
        return
    if old.exists():
        shutil.copy2(old, current)
    else:
        current.unlink(missing_ok=True)


def _has_deployments(cloudify: Path) -> bool:
    local = cloudify / "profiles/local"
    return any(any((local / name).iterdir()) for name in ("blueprints", "deployments") if (local / name).is_dir())
