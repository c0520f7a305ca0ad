"""What stands on a disk: files that only its domain's definition names, and nobody any more when that is gone."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cloudify_libvirt.core.errors import CoreError, Missing, libvirt_call
from cloudify_libvirt.core.parse import VolumeFacts
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.volume import Volume

_DEVICES = "/dev/"


@dataclass(frozen=True)
class Stack:
    """A disk's own file with one file after the other on it; the last one is what a guest writes to."""

    files: tuple[VolumeFacts, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the files' paths, the disk's own first."""
        return tuple(one.path for one in self.files)

    @property
    def top(self) -> VolumeFacts:
        """Return the file on which nothing stands."""
        return self.files[-1]

    @property
    def in_order(self) -> bool:
        """Tell whether nothing was written to a file after what stands on it: a merge by hand would have been."""
        return all(below.modified_ns <= one.modified_ns for below, one in pairwise(self.files))


def stacks(session: Session, path: str, domain: str, known: Iterable[str] = ()) -> list[Stack]:
    """Return all stacks on a disk that may be those of the domain with that UUID; none where nothing stands on it.

    Seen are the directories of the disk and of the files ``known``, whose pools are started for it, and all active
    pools. What another domain has as
    its disk is that one's.
    """
    with _seen(session, {posixpath.dirname(one) for one in (path, *known)}):
        users = Users(session)
        chains = [chain for chain in _chains(users, path) if len(chain) > 1]
        mine = [chain for chain in chains if not _of_others(session, users, chain[-1], domain)]
        return [Stack(tuple(_volume(session, one).facts() for one in chain)) for chain in mine]


@contextmanager
def opened(session: Session, path: str) -> Iterator[Volume]:
    """Give a file as a volume, also one that no pool knows; raise ``Missing`` when it is not there."""
    try:
        known = _volume(session, path)
    except Missing:
        known = None
    if known is not None:
        yield known
        return
    with _seen(session, {posixpath.dirname(path)}):
        yield _volume(session, path)


@contextmanager
def _seen(session: Session, directories: set[str]) -> Iterator[None]:
    """Let libvirt look into directories; one that is not there has nothing in it."""
    with ExitStack() as stack:
        for directory in sorted(directories):
            here = session.shares_files
            if not f"{directory}/".startswith(_DEVICES) and (not here or Path(directory).is_dir()):
                try:
                    stack.enter_context(overlay.pool_at(session, directory))
                except CoreError as error:
                    if overlay.ABSENT not in error.reason:
                        raise
        yield


def pools_off(session: Session, paths: Iterable[str]) -> list[str]:
    """Return the names of the pools that have the directories of these files and are off: ``stacks`` starts them."""
    directories = sorted({posixpath.dirname(path) for path in paths})
    found = (overlay.found_at(session, one) for one in directories if not f"{one}/".startswith(_DEVICES))
    return [pool.name for pool in found if pool is not None and not pool.active]


def _chains(users: Users, path: str) -> Iterator[list[str]]:
    above = users.above(path)
    if not above:
        yield [path]
    for one in above:
        yield from ([path, *rest] for rest in _chains(users, one))


def _of_others(session: Session, users: Users, path: str, domain: str) -> bool:
    found = _volume(session, path)
    return any(user.uuid for user in users.users_of(path, found.pool.name, found.name, domain))


def _volume(session: Session, path: str) -> Volume:
    with libvirt_call("find", f"file {path} on {session.uri}"):
        handle = session.connection.storageVolLookupByPath(path)
        return Volume(Pool(session, handle.storagePoolLookupByVolume()), handle)
