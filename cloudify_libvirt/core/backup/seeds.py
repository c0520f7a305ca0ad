"""cloud-init's seeds in backups: the small ISO image in a drive that a guest is told its users and cards by.

A point keeps what the drive holds, and a copy of the guest gets a seed of its own: with another instance-id, as it is
another machine, and with its own cards' addresses. Without one nobody might get into it: cloud images configure the
cards of the MAC addresses that they were first started with.

Source: cloud-init, NoCloud data source (label cidata, meta-data, network-config)
"""

from __future__ import annotations

import io
import posixpath
import re
import struct
from collections.abc import Iterator, Mapping

import pycdlib
import yaml
from pycdlib.pycdlibexception import PyCdlibException

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.media import build_iso
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.storage import stream
from cloudify_libvirt.core.volume import Volume

KIND = "seed"
# An installation medium is none; a seed is a few KiB with padding.
MOST_BYTES = 8 << 20
# ECMA-119 8.4: the primary volume descriptor, and the volume identifier in it.
_DESCRIPTOR, _IDENT = 16 * 2048, slice(16 * 2048 + 40, 16 * 2048 + 72)
_LABEL = b"cidata"
# What the readers of ISO 9660 and YAML raise for what they do not foresee, and our writer for names that it refuses.
_ODD = (PyCdlibException, yaml.YAMLError, InvalidSpec, struct.error, ValueError, LookupError, ArithmeticError,
        AttributeError, RecursionError)  # fmt: skip
# Other names of domains are no host names, or would be read as YAML's own.
_HOSTNAME = re.compile(r"(?=[^.]*[A-Za-z])[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def of(domain: Domain) -> list[tuple[str, str]]:
    """Return target and path of each medium in a CD-ROM drive of the domain's definition."""
    disks = parse.document(domain.definition()).findall("devices/disk[@device='cdrom']")
    found = ((disk.find("target"), disk.find("source")) for disk in disks)
    return [
        (str(target.get("dev")), str(source.get("file")))
        for target, source in found
        if target is not None and source is not None and source.get("file")
    ]


def content(session: Session, path: str) -> bytes | None:
    """Return what a medium holds; None where it is no seed, or is gone."""
    directory, name = posixpath.split(path)
    with overlay.pool_at(session, directory) as pool:
        volume = Volume.find(pool, name)
        if volume is None or volume.facts().capacity_bytes > MOST_BYTES:
            return None
        parts = stream.received(session, volume.handle, volume.target)
        data = b"".join(bytes(length) if part is None else part for _offset, length, part in parts)
    return data if is_seed(data) else None


def is_seed(data: bytes) -> bool:
    """Tell whether an ISO image has cloud-init's label."""
    return data[_DESCRIPTOR + 1 : _DESCRIPTOR + 6] == b"CD001" and data[_IDENT].strip(b" \0").lower() == _LABEL


def another(data: bytes, name: str, instance_id: str, macs: Mapping[str, str]) -> bytes:
    """Return the seed of a copy: another instance-id, its own host name, and other MAC addresses for the old ones.

    With the old name it would take the first one's place in the network's DNS. What cannot be read or written again
    is returned as it is, and a domain's name that is no host name is not used.
    """
    try:
        return build_iso(_own(data, name, instance_id, macs))
    except _ODD:
        return data


def _own(data: bytes, name: str, instance_id: str, macs: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files of the copy's seed.

    Raises:
        ValueError: its meta-data are no map; and what else the readers raise.
    """
    files = dict(_files(data))
    meta = yaml.safe_load(files.get("meta-data", b""))
    meta = {} if meta is None else meta
    if not isinstance(meta, dict):
        raise ValueError(type(meta).__name__)
    files |= _named(files, meta, name) if _HOSTNAME.fullmatch(name) else {}
    own = {**meta, "instance-id": instance_id}
    files["meta-data"] = yaml.safe_dump(own, allow_unicode=True).encode()
    for old, new in macs.items():
        swapped = re.sub(re.escape(old).encode(), new.encode(), files.get("network-config", b""), flags=re.IGNORECASE)
        files |= {"network-config": swapped} if swapped else {}
    return files


def _named(files: Mapping[str, bytes], meta: dict[str, object], name: str) -> dict[str, bytes]:
    """Have the copy's name in the meta-data, and in a line of the user-data that says the same as they did."""
    old = str(meta.get("local-hostname") or "")
    if not old:
        return {}
    meta["local-hostname"] = name
    line = re.compile(rb"^(hostname:[ \t]*)['\"]?" + re.escape(old).encode() + rb"['\"]?[ \t]*$", re.MULTILINE)
    return {"user-data": line.sub(rb"\g<1>" + name.encode(), files.get("user-data", b""))}


def _files(data: bytes) -> Iterator[tuple[str, bytes]]:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(data))
    try:
        kind = "joliet_path" if iso.has_joliet() else "rr_path" if iso.has_rock_ridge() else "iso_path"
        for directory, _directories, names in iso.walk(**{kind: "/"}):
            for name in names:
                path = posixpath.join(directory, name)
                read = io.BytesIO()
                iso.get_file_from_iso_fp(read, **{kind: path})
                yield _plain(path.lstrip("/"), kind), read.getvalue()
    finally:
        iso.close()


def _plain(path: str, kind: str) -> str:
    """Return a name without the version that only plain ISO 9660 has."""
    return path.partition(";")[0].rstrip(".").lower() if kind == "iso_path" else path
