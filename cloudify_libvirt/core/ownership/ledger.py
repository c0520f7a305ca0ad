"""What this orchestrator made, kept outside of any deployment's state: what outlives that state is found again by it.

One file per instance and host, replaced whole, readable by its owner alone: a copy of the instance's journal, written
before what it names is made. The names of the files of instances that stand for the same machine begin alike.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.ownership.mark import make_private, state_directory, unwritable


@dataclass(frozen=True)
class Entry:
    """One instance's journal. ``home``: where its deployment's state is kept, "" where that cannot be seen.

    ``since``: when it was first written, in UTC. ``kind``: domain, network, pool or volume.
    """

    deployment: str
    node: str
    number: int
    uri: str
    kind: str
    instance: str
    home: str = ""
    since: str = ""
    journal: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return what the same machine has in every install."""
        return _digest(self.deployment, self.node, self.number, self.uri)

    @property
    def path(self) -> Path:
        """Return the entry's file."""
        return _path(directory(), self.key, _digest(self.home, self.instance))


def _draft(path: Path) -> Path:
    """Return the file that an entry is written to first: beside the others, as a reader takes those for entries."""
    return path.parent.parent / f"{path.stem}.draft"


@lru_cache(maxsize=1024)
def _path(directory: Path, key: str, instance: str) -> Path:
    return directory / key[:2] / f"{key}-{instance}.json"


@lru_cache(maxsize=1024)
def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def directory() -> Path:
    """Return the directory of all entries."""
    return _directory(state_directory())


@lru_cache(maxsize=8)
def _directory(state: Path) -> Path:
    return state / "ledger"


def write(entry: Entry) -> None:
    """Write the entry, in place of the one that it had.

    Raises:
        CoreError: it cannot be written; nothing may be made then.
    """
    path = entry.path
    data = json.dumps(vars(_dated(entry, path)), sort_keys=True).encode()
    try:
        with suppress(FileNotFoundError):
            return _write_private(path, data)
        make_private(path.parent)
        _write_private(path, data)
    except OSError as error:
        raise unwritable(path, error) from error


def _write_private(path: Path, data: bytes) -> None:
    draft = _draft(path)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    draft.replace(path)


def _dated(entry: Entry, path: Path) -> Entry:
    if entry.since:
        return entry
    known = _read(path)
    return replace(entry, since=known.since if known else datetime.now(UTC).isoformat(timespec="seconds"))


def forget(entry: Entry) -> None:
    """Remove the entry; fine when there is none."""
    path = entry.path
    try:
        path.unlink(missing_ok=True)
        # Of a write that was killed.
        _draft(path).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def of_key(entry: Entry) -> list[Entry]:
    """Return the entries of the same machine, the newest last."""
    place, start = entry.path.parent, f"{entry.key}-"
    try:
        names = _names_in(place)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unwritable(place, error) from error
    return _entries(place / name for name in names if name.startswith(start) and name.endswith(".json"))


def _names_in(place: Path) -> list[str]:
    """Return the names in a directory of ours, without the write that noting the time of reading would be."""
    try:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
    except PermissionError:
        # Another's, as of a container's volume.
        return os.listdir(place)  # noqa: PTH208 - often
    try:
        return os.listdir(directory)  # noqa: PTH208 - of an open one
    finally:
        os.close(directory)


def every() -> list[Entry]:
    """Return all entries."""
    return _entries(directory().glob("*/*.json"))


def _entries(paths: Iterable[Path]) -> list[Entry]:
    return sorted(filter(None, map(_read, paths)), key=lambda entry: entry.since)


def _read(path: Path) -> Entry | None:
    """Return an entry; None when it went meanwhile.

    Raises:
        CoreError: it is not one: nobody may conclude that nothing was made.
    """
    try:
        return Entry(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unwritable(path, error) from error
    except (ValueError, TypeError) as error:
        remedy = "Look at it, and remove it when nothing that it names is left."
        raise CoreError("read", f"the record {path}", f"it is damaged ({error})", remedy) from error


@contextmanager
def held(entry: Entry) -> Iterator[None]:
    """Hold the entries of one machine alone: they are taken over by one, or removed by one."""
    with host_lock("", f"ledger {entry.key}"):
        yield


def merged(entries: list[Entry]) -> dict[str, Any]:
    """Return one journal of several, of which each names part: lists and maps joined, else the newest value."""
    found: dict[str, Any] = {}
    for entry in entries:
        for key, value in entry.journal.items():
            found[key] = _joined(found.get(key), value)
    return found


def _joined(old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {**old, **new}
    if isinstance(old, list) and isinstance(new, list):
        return [*old, *(one for one in new if one not in old)]
    return new
