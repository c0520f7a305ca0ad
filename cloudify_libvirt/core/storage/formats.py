"""In which format a volume's content is: as somebody said or recorded it, not as the content says.

Whoever writes to a raw disk can write a header of another format to it, which names any file of the host. libvirt
looks into files when it reads a pool, and believes that.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import Conflict, CoreError, Unsupported, unless_gone
from cloudify_libvirt.core.image import qcow2
from cloudify_libvirt.core.ownership import ledger
from cloudify_libvirt.core.storage import stream
from cloudify_libvirt.core.uri import shown
from cloudify_libvirt.core.volume import AS_RAW, Volume

# A base image of ours: its name says its format, and nobody guesses it who has not the image.
BASE_PREFIX = "base-"
BASE_NAME = re.compile(rf"{BASE_PREFIX}[0-9a-f]{{32}}\.(qcow2|raw)")
_NOTHING = "<nothing/>"
_REMEDY = (
    "Say its format, raw or qcow2: as type of the disk, or as format of source_volume. Have what is of another format "
    "converted by qemu-img first."
)


def of(volume: Volume, told: str = "") -> str:
    """Return the format that a hypervisor is to be told.

    It is the one that is ``told``, else the one of a base image's name, else what was recorded when we made it, else
    what a domain of the host has it as. Of what nobody knows it is what the content says, if that names no other file.

    Raises:
        Conflict: nobody knows, and its content names a file that is not known as ours.
    """
    base = BASE_NAME.fullmatch(volume.name)
    if told or base:
        return told or str(base and base[1])
    # Whatever raw content holds, as raw it is only bytes.
    seen = volume.facts().format
    if seen in AS_RAW:
        return "raw"
    # No directory is written to as a disk; the test driver's volumes have no content.
    if seen == "dir" or volume.pool.session.driver == "test":
        return seen
    if volume.kind == "block":
        return "raw"
    return _recorded(volume) or _defined(volume) or _found(volume, seen)


def capacity(volume: Volume, format_: str) -> int:
    """Return what a guest sees of a volume of that format, in bytes."""
    return volume.length_bytes if volume.is_misread(format_) else volume.facts().capacity_bytes


def _recorded(volume: Volume) -> str:
    # Where the records cannot be read, nothing is known.
    with suppress(CoreError):
        place = volume.pool.name, volume.name
        entries = (one for one in reversed(ledger.every()) if shown(one.uri) == volume.pool.session.uri)
        return next(filter(None, (_made_as(entry.kind, entry.journal, place) for entry in entries)), "")
    return ""


def _made_as(kind: str, journal: Mapping[str, Any], place: tuple[str, str]) -> str:
    if kind == "volume" and (journal.get("pool"), journal.get("resource_id")) == place:
        made = journal.get("made_as") or {}
        return str(made.get("stored") or made.get("format") or ("qcow2" if made.get("overlay") else ""))
    roots = (part["name"] for part in journal.get("made") or () if (part["pool"], part["name"]) == place)
    return next((posixpath.splitext(name)[1][1:] for name in roots if name.endswith((".raw", ".qcow2"))), "")


def _defined(volume: Volume) -> str:
    path, place = volume.path, (volume.pool.name, volume.name)
    said: set[str] = set()
    for domain in volume.pool.session.all_domains():
        for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            xml = unless_gone(partial(domain.XMLDesc, flags), "read", f"domain '{domain.name()}'", _NOTHING)
            said.update(format_ for whose, format_ in parse.formats(xml) if whose in (path, place))
    if len(said) > 1:
        raise _unknown(volume, f"domains have it as {' and as '.join(sorted(said))}")
    return next(iter(said), "")


def _found(volume: Volume, seen: str) -> str:
    if seen != "qcow2":
        raise _unknown(volume, f"it looks like {seen} to its host, which may lie in other files")
    try:
        header = qcow2.read(volume.head())
    except Unsupported as error:
        raise _unknown(volume, "it looks like qcow2 to its host, and libvirt cannot read its header") from error
    if header is None:
        return "raw"
    if header.features & qcow2.DATA_FILE:
        raise _unknown(volume, "its content is a qcow2 header whose data is in another file")
    if header.backing and not _is_base(volume, header):
        raise _unknown(volume, f"its content is a qcow2 header above {header.backing}")
    return "qcow2"


def _is_base(volume: Volume, header: qcow2.Header) -> bool:
    directory, name = posixpath.split(header.backing)
    known = BASE_NAME.fullmatch(name)
    return known is not None and known[1] == header.backing_format and directory == volume.pool.path


def _unknown(volume: Volume, reason: str) -> Conflict:
    written = "a guest can write such a header to a raw disk"
    return Conflict("use", volume.target, f"{reason}, and nothing recorded says what it is; {written}", _REMEDY)


def readable(volume: Volume, format_: str) -> Volume:
    """Return the volume as libvirt sees it now, whose own copies would read it as it sees it."""
    if format_ != "raw" or volume.kind != "file" or volume.facts().encrypted:
        return volume
    volume.pool.refresh()
    return Volume.get(volume.pool, volume.name)


def misread(volume: Volume) -> Unsupported:
    """Return the error for raw content that libvirt would convert as what it looks like."""
    reason = f"it is raw, but looks like {volume.facts().format} to its host, which would convert that"
    return Unsupported("convert", volume.target, reason, "Leave it raw and unencrypted.")


def copy_bytes(source: Volume, target: Volume) -> None:
    """Copy a volume's bytes as they are, through this machine; what they look like to the host does not count."""
    session, length = target.pool.session, source.length_bytes
    stream.write(session, target.handle, _bytes_of(source), length, target.target)


def _bytes_of(source: Volume) -> Iterator[bytes]:
    for _offset, length, data in stream.received(source.pool.session, source.handle, source.target):
        if data is not None:
            yield data
            continue
        for offset in range(0, length, stream.CHUNK_BYTES):
            yield bytes(min(stream.CHUNK_BYTES, length - offset))
