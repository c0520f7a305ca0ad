"""What this orchestrator made, kept outside of any deployment's state: what outlives that state is found again by it.

One file per instance and host, replaced whole, readable by its owner alone: a copy of the instance's journal, written
before what it names is made. The names of the files of instances that stand for the same machine begin alike.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
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
        text = json.dumps([self.deployment, self.node, self.number, self.uri])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def path(self) -> Path:
        """Return the entry's file."""
        name = hashlib.sha256(json.dumps([self.home, self.instance]).encode()).hexdigest()[:24]
        return directory() / self.key[:2] / f"{self.key}-{name}.json"


def directory() -> Path:
    """Return the directory of all entries."""
    return state_directory() / "ledger"


def write(entry: Entry) -> None:
    """Write the entry, in place of the one that it had.

    Raises:
        CoreError: it cannot be written; nothing may be made then.
    """
    path = entry.path
    text = json.dumps(vars(_dated(entry)), sort_keys=True)
    try:
        make_private(path.parent)
        # Beside the files of the key, as a reader takes every file there for an entry's.
        with tempfile.NamedTemporaryFile("w", dir=directory(), delete=False, encoding="utf-8") as draft:
            draft.write(text)
        Path(draft.name).replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def _dated(entry: Entry) -> Entry:
    if entry.since:
        return entry
    known = _read(entry.path)
    return replace(entry, since=known.since if known else datetime.now(UTC).isoformat(timespec="seconds"))


def forget(entry: Entry) -> None:
    """Remove the entry; fine when there is none."""
    path = entry.path
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def of_key(entry: Entry) -> list[Entry]:
    """Return the entries of the same machine, the newest last."""
    return _entries(entry.path.parent.glob(f"{entry.key}-*.json"))


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
