"""Files beside a domain's disks: overlays and memory of snapshots, made and removed through storage pools.

A pool works for a remote host as for this one. Where no pool has the directory, one is made for the moment.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from lxml import etree

from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, Missing, libvirt_call
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.identity import scoped_name
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.variables import Backing, VolumeFacts
from cloudify_libvirt.core.storage import formats
from cloudify_libvirt.core.volume import Volume

MOMENTARY = "cfy-directory-"
# What we call our files: DISK@SNAPSHOT[.NUMBER].qcow2 and DOMAIN@SNAPSHOT.mem; of an encrypted disk's overlay
# libvirt makes an id of QEMU's, which has fewer letters: DISK--at--SNAPSHOT[.NUMBER].qcow2.
_OURS = re.compile(r"[^/]+(@|--at--)[^/@]+\.(qcow2|mem)")
_AT, _ENCRYPTED_AT = "@", "--at--"
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9._-]")
_MOST_NUMBERS = 1000
# What libvirt says of a directory that is not there, with the code of many other failures.
ABSENT = "No such file or directory"


@dataclass(frozen=True)
class Journal:
    """Where files are written down before they are made; ``known`` returns those of unfinished and finished work."""

    add: Callable[[str], None]
    drop: Callable[[str], None]
    known: Callable[[], Iterable[str]]


# For callers without a memory: what is ours is told by its name then.
NO_JOURNAL = Journal(lambda _path: None, lambda _path: None, lambda: ())


def is_ours(path: str) -> bool:
    """Tell whether a file has a name of our scheme."""
    return _OURS.fullmatch(posixpath.basename(path)) is not None


@contextmanager
def pool_at(session: Session, directory: str, *, build: bool = False) -> Iterator[Pool]:
    """Give the pool of a directory, its contents read anew; one that is made for this goes afterwards.

    With ``build`` a directory that is not there is made.
    """
    # Nobody else's may go while another process works with it.
    with host_lock(session.uri, f"directory {posixpath.normpath(directory)}"):
        pool = found_at(session, directory) or _make(session, directory, build=build)
        try:
            pool.start()
            pool.refresh()
            yield pool
        finally:
            if pool.name.startswith(MOMENTARY):
                pool.stop()


def found_at(session: Session, directory: str) -> Pool | None:
    """Return the pool that has a directory, on or off; None where none has it."""
    with libvirt_call("list the pools of", f"hypervisor {session.uri}"):
        handles = session.connection.listAllStoragePools(0)
    pools = (Pool(session, handle) for handle in handles)
    wanted = posixpath.normpath(directory)
    return next((pool for pool in pools if pool.path and posixpath.normpath(pool.path) == wanted), None)


def _make(session: Session, directory: str, *, build: bool) -> Pool:
    root = etree.Element("pool", {"type": "dir"})
    etree.SubElement(root, "name").text = MOMENTARY + hashlib.sha256(directory.encode()).hexdigest()[:12]
    target = etree.SubElement(root, "target")
    etree.SubElement(target, "path").text = directory
    flags = 0
    if build:
        # It changes the mode of one that is there, too: who asks has a directory of its own.
        etree.SubElement(etree.SubElement(target, "permissions"), "mode").text = "0711"
        flags = libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD
    with libvirt_call("look into", f"directory {directory} on {session.uri}"):
        return Pool(session, session.connection.storagePoolCreateXML(etree.tostring(root).decode(), flags))


@dataclass(frozen=True)
class Owner:
    """Whose overlays are made: the domain's UUID, the snapshot's name, and the paths that must stay."""

    domain: str
    snapshot: str
    taken: frozenset[str]


def make(session: Session, below: str, format_: str, owner: Owner, journal: Journal, secret: str = "") -> str:
    """Make an empty overlay of a disk's file beside it, readable by its owner alone; return its path.

    A file of the journal that need not stay was left by an attempt that was cut off, and is made anew. With
    ``secret``, the UUID of one of libvirt's, the overlay is encrypted with its key.

    Raises:
        Missing: the file below is gone.
    """
    directory, name = posixpath.split(below)
    with pool_at(session, directory) as pool:
        base = Volume.find(pool, name)
        if base is None:
            raise Missing("make an overlay of", f"{below} on {session.uri}", "the file does not exist", "Restore it.")
        path = _free(pool, name, owner, journal, encrypted=bool(secret))
        journal.add(path)
        # The format as the domain has it: what a guest wrote into a raw disk may look like another.
        facts = VolumeFacts(formats.capacity(base, format_), 0, "qcow2", Backing(below, format_))
        new = posixpath.basename(path)
        variables = {**asdict(facts), "secret": secret, "name": new}
        xml = render(TemplateSource(name="volume.xml.j2"), variables, schema="storagevol", node=new)
        return Volume.create(pool, xml, new).path


def _free(pool: Pool, name: str, owner: Owner, journal: Journal, *, encrypted: bool) -> str:
    known = set(journal.known())
    for number in range(1, _MOST_NUMBERS):
        path = posixpath.join(pool.path, _name(name, owner.snapshot, number, encrypted=encrypted))
        there = Volume.find(pool, posixpath.basename(path))
        if path in owner.taken or (there is not None and path not in known):
            continue
        if there is not None:
            there.delete(owner.domain)
        return path
    raise CoreError("name an overlay of", f"volume '{name}'", "a thousand names are taken", "Remove old files.")


def _name(disk: str, snapshot: str, number: int, *, encrypted: bool) -> str:
    stem = posixpath.splitext(disk)[0].split(_AT)[0].split(_ENCRYPTED_AT)[0]
    ending = f"{file_part(snapshot)}.qcow2" if number == 1 else f"{file_part(snapshot)}.{number}.qcow2"
    if not encrypted:
        return f"{stem}{_AT}{ending}"
    name = _NOT_IN_ID.sub("_", f"{stem}{_ENCRYPTED_AT}{ending}")
    return name if name[0].isalpha() else f"disk-{name}"


def file_part(snapshot: str) -> str:
    """Return a snapshot's name as part of a file's."""
    return scoped_name(snapshot.replace("@", "_"), "").removesuffix("-")


def memory_path(disk: str, domain: str, snapshot: str) -> str:
    """Return where the memory of a snapshot goes: beside a disk."""
    return posixpath.join(posixpath.dirname(disk), f"{file_part(domain)}@{file_part(snapshot)}.mem")


def exists(session: Session, path: str) -> bool:
    """Tell whether a file is there, on the hypervisor's host."""
    directory, name = posixpath.split(path)
    try:
        with pool_at(session, directory) as pool:
            return Volume.find(pool, name) is not None
    except CoreError:
        return False


def chain(session: Session, path: str) -> list[str]:
    """Return a disk's file and those below it, as far as they can be seen."""
    found = [path]
    while True:
        directory, name = posixpath.split(found[-1])
        with pool_at(session, directory) as pool:
            volume = Volume.find(pool, name)
            facts = volume.facts() if volume else None
        if facts is None or not facts.backing or facts.backing in found:
            return found
        found.append(facts.backing)
        if facts.backing_format == "raw":
            # A guest may have written there what looks as if it stood on any file of the host.
            return found


def users(session: Session, path: str, domain: str) -> list[str]:
    """Return, in words, who but the domain with that UUID needs the file."""
    directory, name = posixpath.split(path)
    with pool_at(session, directory) as pool:
        volume = Volume.find(pool, name)
        return volume.users(domain) if volume else []


def remove(session: Session, path: str, domain: str) -> None:
    """Delete the file; fine when it is gone.

    Raises:
        InUse: another domain than the one with that UUID, or an overlay, needs it.
    """
    directory, name = posixpath.split(path)
    with pool_at(session, directory) as pool:
        volume = Volume.find(pool, name)
        if volume is not None:
            volume.delete(domain)


def remove_all(session: Session, paths: Iterable[str], domain: str) -> list[tuple[str, CoreError]]:
    """Delete the files, those that stand on others first; return what could not go, each with the reason."""
    left = list(dict.fromkeys(paths))
    while True:
        failed: list[tuple[str, CoreError]] = []
        for path in left:
            try:
                remove(session, path, domain)
            except CoreError as error:
                failed.append((path, error))
        if len(failed) in (0, len(left)):
            return failed
        left = [path for path, _error in failed]
