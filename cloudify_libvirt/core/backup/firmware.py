"""What a domain has beside its disks: its firmware's variables (NVRAM) and the state of its TPM.

Both are small files of the hypervisor's host, read and written through pools: so of a remote host, too.

Source: libvirt, qemu_domain.c (qemuDomainNVRAMPathFormat), qemu_tpm.c (qemuTPMEmulatorStorageBuildPath);
swtpm(8), tpmstate
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import Busy, CoreError
from cloudify_libvirt.core.parse import document
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.storage import stream
from cloudify_libvirt.core.storage.bases import Wish
from cloudify_libvirt.core.volume import Volume

NVRAM, TPM = "nvram", "tpm"
WORDS = {NVRAM: "the firmware's variables", TPM: "the state of the TPM"}
_NVRAM_PATH = "/var/lib/libvirt/qemu/nvram/{name}_VARS.fd"
_TPM_PATH = "/var/lib/libvirt/swtpm/{uuid}/{directory}/tpm2-00.permall"
_TPM_1_PATH = "/var/lib/libvirt/swtpm/{uuid}/{directory}/tpm-00.permall"
# How often a file is read that changes meanwhile.
_LOOKS = 5


@dataclass(frozen=True)
class Beside:
    """One of these files: its kind, and where it is on the hypervisor's host."""

    kind: str
    path: str


def of(domain: Domain) -> list[Beside]:
    """Return the files that the domain has or will have at its next start; none where a user's own daemon has it."""
    if domain.session.driver != "qemu" or "/session" in domain.session.uri:
        return []
    root = document(domain.definition())
    return [*_nvram(root, domain.name), *_tpm(root, domain.uuid)]


def _nvram(root: etree._Element, name: str) -> Iterator[Beside]:
    system = root.find("os")
    given = root.find("os/nvram")
    if given is not None and given.get("type", "file") == "file":
        source = given.find("source")
        path = str(given.text or "").strip() or ("" if source is None else str(source.get("file", "")))
        yield Beside(NVRAM, path or _NVRAM_PATH.format(name=name))
    elif given is None and system is not None and system.get("firmware") == "efi":
        yield Beside(NVRAM, _NVRAM_PATH.format(name=name))


def _tpm(root: etree._Element, uuid: str) -> Iterator[Beside]:
    backend = root.find("devices/tpm/backend[@type='emulator']")
    if backend is not None:
        first = backend.get("version") == "1.2"
        path = (_TPM_1_PATH if first else _TPM_PATH).format(uuid=uuid, directory="tpm1.2" if first else "tpm2")
        yield Beside(TPM, path)


def content(session: Session, one: Beside) -> bytes | None:
    """Return what a file holds, the same in two looks; None where there is none yet.

    Raises:
        Busy: the guest goes on writing it.
    """
    directory, name = posixpath.split(one.path)
    try:
        with overlay.pool_at(session, directory) as pool:
            volume = Volume.find(pool, name)
            return None if volume is None else _steady(volume, one)
    except CoreError as error:
        if overlay.ABSENT in error.reason:
            return None
        raise


def _steady(volume: Volume, one: Beside) -> bytes:
    seen = _read(volume)
    for _ in range(_LOOKS):
        again = _read(volume)
        if again == seen:
            return seen
        seen = again
    raise Busy("read", WORDS[one.kind], f"the guest goes on writing {one.path}", "Try again.")


def _read(volume: Volume) -> bytes:
    parts = stream.received(volume.pool.session, volume.handle, volume.target)
    return b"".join(bytes(length) if data is None else data for _offset, length, data in parts)


def put(session: Session, one: Beside, data: bytes) -> None:
    """Let a file of a domain that is off hold that.

    What belongs to another user at run time, as a TPM's state does, libvirt gives to that user at the next start.
    Source: libvirt, qemu_tpm.c (qemuTPMEmulatorStorageCreate)
    """
    try:
        _write(session, one, data, build=False)
    except CoreError as error:
        if overlay.ABSENT not in error.reason:
            raise
        # The domain was defined anew, and has not run since.
        _write(session, one, data, build=True)


def _write(session: Session, one: Beside, data: bytes, *, build: bool) -> None:
    directory, name = posixpath.split(one.path)
    with overlay.pool_at(session, directory, build=build) as pool:
        volume = Volume.find(pool, name)
        if volume is None or volume.facts().capacity_bytes != len(data):
            volume = _made(pool, name, len(data), volume)
        volume.upload(data)


def _made(pool: Pool, name: str, size: int, old: Volume | None) -> Volume:
    """Make the file with that size, its owner's as before; libvirt makes none smaller that is in use."""
    root = document(Wish(name, size, "raw").xml(size))
    if old is not None:
        permissions, before = root.find("target/permissions"), document(old.xml()).find("target/permissions")
        if permissions is not None and before is not None:
            permissions[:] = list(before)
        old.delete()
    return Volume.create(pool, etree.tostring(root, encoding="unicode"), name)
