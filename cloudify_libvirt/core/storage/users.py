"""Who on a host needs a volume: domains of every driver, their snapshots and running jobs, overlays in any pool.

libvirt itself deletes a base under its overlays and a disk under its domain without a word. One look serves all
volumes that one operation removes: it reads each definition once, and what it says is as old as the operation.
What a file stands on is read again by the next look only where the file is another one, or was written to since.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Busy, libvirt_call, quiet, unless_gone
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session

_NOTHING = "<nothing/>"
# Definitions are read anew each time; only the reading of the same text is saved.
_references = lru_cache(maxsize=4096)(parse.references)
_volume_facts = lru_cache(maxsize=4096)(parse.volume)

# A volume's path, that of its backing file, and what tells that its file is as it was, () where nothing does.
_Backing = tuple[str, str, tuple[int, ...]]
# By pool's UUID and volume's name.
_backings: WeakKeyDictionary[Session, dict[str, dict[str, _Backing]]] = WeakKeyDictionary()

DOMAIN, SNAPSHOT, BACKUP, VOLUME = "domain", "snapshot", "backup", "volume"


@dataclass(frozen=True)
class User:
    """Who needs a volume: what kind of thing, in words, and the UUID of its domain ("" for an overlay)."""

    kind: str
    words: str
    uuid: str = ""


@dataclass(frozen=True)
class _Overlay:
    """``path`` and ``backing`` without links; ``said`` is the path as libvirt has it."""

    path: str
    backing: str
    user: User
    said: str


class Users:
    """What refers to volumes of one host, as it was when first asked."""

    def __init__(self, session: Session) -> None:
        """Read nothing yet."""
        self._session = session
        self._removed: set[str] = set()
        self._paths: dict[str, str] = {}

    def users_of(self, path: str, pool: str, name: str, besides: str = "") -> list[User]:
        """Return who needs the volume; the domain with UUID ``besides`` does not count.

        Raises:
            CoreError: something could not be read; nobody may conclude then that the volume is free.
        """
        wanted = self.real(path)
        domains = [
            user
            for user, references in self._of_domains
            if user.uuid != besides and not references.isdisjoint({wanted, (pool, name)})
        ]
        return list(dict.fromkeys([*domains, *self.overlays(path)]))

    def overlays(self, path: str) -> list[User]:
        """Return the volumes of active pools whose backing file the volume is."""
        wanted = self.real(path)
        return [o.user for o in self._of_volumes if o.backing == wanted and o.path not in self._removed]

    def above(self, path: str) -> list[str]:
        """Return the paths of the volumes of active pools that stand directly on a file."""
        wanted = self.real(path)
        return [o.said for o in self._of_volumes if o.backing == wanted and o.path not in self._removed]

    def forget(self, path: str) -> None:
        """Leave out a volume that was deleted since."""
        self._removed.add(self.real(path))

    def real(self, path: str) -> str:
        """Return the path without links, where that can be told."""
        if path not in self._paths:
            here = path.startswith("/") and self._session.shares_files
            self._paths[path] = os.path.realpath(path) if here else path
        return self._paths[path]

    def references(self, xml: str) -> set[parse.Reference]:
        """Return what a document refers to, paths without links."""
        return {self.real(one) if isinstance(one, str) else one for one in _references(xml)}

    @cached_property
    def _of_domains(self) -> list[tuple[User, set[parse.Reference]]]:
        domains = self._session.all_domains()
        with_snapshots = self._session.all_domains(libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)
        uuids = {domain.UUIDString() for domain in with_snapshots}
        return [
            (user, self.references(xml))
            for domain in domains
            for user, xml in _documents(domain, domain.UUIDString() in uuids)
        ]

    @cached_property
    def _of_volumes(self) -> list[_Overlay]:
        return [
            _Overlay(self.real(path), self.real(backing), _overlay(name, pool), path)
            for pool in self._pools()
            for name, (path, backing, _unchanged) in self._backings_in(pool).items()
            if backing
        ]

    def _backings_in(self, pool: Pool) -> dict[str, _Backing]:
        pools, uuid = _backings.setdefault(self._session, {}), pool.uuid
        known = pools.get(uuid, {})
        every = ((str(handle.name()), handle) for handle in _volumes(pool))
        found = {name: self._again(known.get(name), handle, name) for name, handle in every}
        there = {name: one for name, one in found.items() if one is not None}
        pools[uuid] = {name: one for name, one in there.items() if one[2]}
        return there

    def _again(self, known: _Backing | None, handle: Any, name: str) -> _Backing | None:
        if known is not None and self._file(known[0]) == known[2]:
            return known
        # A file's key is its path, and at hand.
        path = str(handle.key())
        unchanged = self._file(path)
        xml = unless_gone(partial(handle.XMLDesc, 0), "read", f"volume '{name}'", "")
        if not xml:
            return None
        facts = _volume_facts(xml)
        return facts.path, facts.backing, unchanged if facts.path == path else ()

    def _file(self, path: str) -> tuple[int, ...]:
        """Return what changes whenever a file does; () of what is no file, or another machine's."""
        with suppress(OSError):
            found = Path(path).stat() if self._session.shares_files else None
            if found is not None and stat.S_ISREG(found.st_mode):
                return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        return ()

    def _pools(self) -> list[Pool]:
        with libvirt_call("list the pools of", f"hypervisor {self._session.uri}"):
            handles = self._session.connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
        return [Pool(self._session, handle) for handle in handles]


def _overlay(name: str, pool: Pool) -> User:
    return User(VOLUME, f"volume '{name}' of pool '{pool.name}'")


def _documents(domain: Any, has_snapshots: bool) -> Iterator[tuple[User, str]]:
    """Yield each document that says what a domain needs, with whose it is."""
    uuid, label = domain.UUIDString(), f"domain '{domain.name()}'"
    # As it was when it was listed: no call for each of many.
    active = domain.ID() != -1
    for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE) if active else (0,):
        yield User(DOMAIN, label, uuid), unless_gone(partial(domain.XMLDesc, flags), "read", label, _NOTHING)
    snapshots = unless_gone(domain.listAllSnapshots, "list the snapshots of", label, []) if has_snapshots else []
    for snapshot in snapshots:
        words = f"snapshot '{snapshot.getName()}' of {label}"
        yield User(SNAPSHOT, words, uuid), unless_gone(snapshot.getXMLDesc, "read", words, _NOTHING)
    if active:
        # No job, or a driver that has none, is an error to libvirt.
        yield User(BACKUP, f"a backup of {label}", uuid), quiet(domain.backupGetXMLDesc, _NOTHING)


def _volumes(pool: Pool) -> list[Any]:
    """Return a pool's volumes, those included that others put there since its last refresh."""
    volumes = _listed(pool)
    names = {str(volume.name()) for volume in volumes}
    if not any(name not in names and not name.startswith(".") for name in pool.contents()):
        return volumes
    # Where a volume is being made, what it will stand on is locked by who makes it.
    with suppress(Busy):
        pool.refresh()
    return _listed(pool)


def _listed(pool: Pool) -> list[Any]:
    with libvirt_call("list the volumes of", pool.target):
        return list(pool.handle.listAllVolumes(0))
