"""What a point consists of, as the file ``manifest.json`` says it. Pure.

The file carries the digest of its own text, so that a damaged manifest is seen as such.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cloudify_libvirt.core.errors import BackupBroken, Unsupported

VERSION = 1
FILE = "manifest.json"
DEFINITION = "domain.xml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DiskEntry(_Part):
    """One disk: ``file`` holds all of it, or (``incremental``) what changed since the parent point.

    ``format`` is that of the disk. The file is qcow2; of an encrypted disk it has the disk's format, and is encrypted
    with the same key, that of libvirt's secret with the UUID ``secret``. ``content_sha256`` is that of what a guest
    sees, "" where it was not asked for.
    """

    target: str
    format: str
    source: str
    virtual_bytes: int
    file: str
    bytes: int
    sha256: str
    incremental: bool
    content_sha256: str = ""
    secret: str = ""


class BesideEntry(_Part):
    """What the domain has beside its disks; ``kind`` is nvram, tpm or seed (of the drive that ``file`` names)."""

    kind: str
    file: str
    bytes: int
    sha256: str


class Skipped(_Part):
    """A disk that is not in the backup."""

    target: str
    why: str


class Manifest(_Part):
    """One point. ``parent`` is "" for a full one, whose ``reason`` then says why it is full."""

    version: Literal[1] = 1
    tool: str
    point: str
    sequence: int
    created: str
    deployment: str
    domain: str
    uuid: str
    parent: str
    reason: str
    checkpoint: str
    running: bool
    quiesced: bool
    consistency: str
    libvirt: int
    hypervisor: int
    disks: tuple[DiskEntry, ...]
    skipped: tuple[Skipped, ...]
    definition_bytes: int
    definition_sha256: str
    beside: tuple[BesideEntry, ...] = ()

    @property
    def kind(self) -> str:
        """Return full or incremental."""
        return "incremental" if self.parent else "full"

    @property
    def size_bytes(self) -> int:
        """Return what the point's disks take in the store."""
        return sum(disk.bytes for disk in self.disks)

    def disk(self, target: str) -> DiskEntry | None:
        """Return the entry of a disk, or None."""
        return next((disk for disk in self.disks if disk.target == target), None)

    def files(self) -> list[tuple[str, int, str]]:
        """Return name, bytes and sha256 of each file but the manifest."""
        disks = [(disk.file, disk.bytes, disk.sha256) for disk in self.disks]
        beside = [(one.file, one.bytes, one.sha256) for one in self.beside]
        return [(DEFINITION, self.definition_bytes, self.definition_sha256), *disks, *beside]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """Return the text of a manifest's file."""
    content = manifest.model_dump(mode="json")
    return (json.dumps({"sha256": _digest(content), "manifest": content}, indent=1) + "\n").encode()


def decode(data: bytes, label: str) -> Manifest:
    """Return the manifest that a file holds.

    Raises:
        BackupBroken: it is not what was written.
        Unsupported: a newer release wrote it.
    """
    remedy = "Restore another point, or this file from a copy of the directory."
    try:
        document = json.loads(data)
        content = document["manifest"]
        if content.get("version") != VERSION:
            reason = f"its manifest has version {content.get('version')}, this release reads {VERSION}"
            raise Unsupported("read", label, reason, "Use the release that wrote it, or a newer one.")
        if _digest(content) != document["sha256"]:
            raise BackupBroken("read", label, f"{FILE} was changed since it was written", remedy)
        return Manifest.model_validate(content)
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise BackupBroken("read", label, f"{FILE} is damaged", remedy) from error
