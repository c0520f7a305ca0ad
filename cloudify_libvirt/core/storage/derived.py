"""Volumes made from other volumes, and from bytes: full copies, overlays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cloudify_libvirt.core.errors import Conflict, InUse, Unsupported
from cloudify_libvirt.core.image.cache import Image
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec.variables import Backing
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage import formats
from cloudify_libvirt.core.storage.bases import Claim, Wish
from cloudify_libvirt.core.units import check_growth, whole_kib
from cloudify_libvirt.core.volume import Volume, check_room, label, refuse_writers

_SECTOR_BYTES = 512


def clone_of(pool: Pool, wish: Wish, source: Volume, format_: str, claim: Claim) -> Volume:
    """Make a full copy of a volume, of that format and of any pool of the host, converted and encrypted as wished.

    Raises:
        InUse: a running domain writes to the source.
        Conflict: the copy would be smaller, or would lay open what is encrypted.
    """
    refuse_writers(source, "copy")
    facts = source.facts()
    if facts.encrypted and not wish.secret:
        reason = "it is encrypted, and its copy would not be"
        raise Conflict("copy", source.target, reason, "Give params.encryption for the copy, too.")
    check_room(pool, facts.allocation_bytes, wish.name)
    wish = replace(wish, format=wish.format or format_)
    capacity = _size(wish, source, format_)
    with pool.lock():
        return storage.copy(pool, wish, source, format_, storage.claimed(pool, wish.name, claim), capacity)


def overlay_of(pool: Pool, wish: Wish, source: Volume, format_: str, claim: Claim) -> Volume:
    """Make a thin copy above a volume, of that format and of any pool; from then on nobody may write to that volume.

    Raises:
        InUse: a domain has the volume as a disk.
        Unsupported: the volume is encrypted.
    """
    users = source.users()
    domains = [words for words in users if not words.startswith("volume ")]
    if domains:
        reason = f"{domains[0]} writes to it, which breaks what stands above"
        raise InUse("lay an overlay on", source.target, reason, "Take mode: clone, or remove the volume from there.")
    if source.facts().encrypted:
        raise Unsupported("lay an overlay on", source.target, "it is encrypted", "Take mode: clone.")
    wish = replace(wish, format="qcow2")
    capacity = _size(wish, source, format_)
    with pool.lock():
        found = storage.claimed(pool, wish.name, claim)
        return storage.overlay_above(pool, wish, capacity, Backing(source.path, format_), found)


def _size(wish: Wish, source: Volume, format_: str) -> int:
    now = formats.capacity(source, format_)
    wanted = wish.capacity_bytes or now
    check_growth("make", label(source.pool, wish.name), now, wanted, "its source's")
    return wanted if wish.format == "raw" else whole_kib(wanted)


@contextmanager
def in_memory(data: bytes, *, whole_sectors: bool = False) -> Iterator[Image]:
    """Bring bytes as a raw image that no disk of this machine ever holds.

    ``whole_sectors``: with zeros up to the next sector, without which no other format can hold it.
    """
    padding = -len(data) % _SECTOR_BYTES if whole_sectors else 0
    descriptor = os.memfd_create("content")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data + bytes(padding))
        size = len(data) + padding
        path = Path(f"/proc/self/fd/{descriptor}")
        yield Image(path, hashlib.sha256(data).hexdigest(), "raw", size, size)
    finally:
        os.close(descriptor)
