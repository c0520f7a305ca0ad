"""Checkpoints: from when on a running domain's disks remember what changes.

Source: https://libvirt.org/formatcheckpoint.html
"""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.driver import libvirt
from cloudify_libvirt.core.errors import CoreError, libvirt_call
from cloudify_libvirt.core.parse import document, number


def names(domain: Domain) -> set[str]:
    """Return the names of the domain's checkpoints."""
    with libvirt_call("list the checkpoints of", domain.target):
        return {str(one.getName()) for one in domain.handle.listAllCheckpoints(0)}


def changed_bytes(domain: Domain, name: str) -> dict[str, int]:
    """Return how much of each disk (by target) changed since; of a running domain only.

    Raises:
        ChainBroken: a disk lost its memory of that, by a crash for example.
    """
    with libvirt_call("read", f"checkpoint '{name}' of {domain.target}"):
        xml = _look_up(domain, name).getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE)
    disks = document(xml).findall("disks/disk")
    return {disk.get("name", ""): number(disk.get("size")) for disk in disks if disk.get("size")}


def _look_up(domain: Domain, name: str) -> Any:
    return domain.handle.checkpointLookupByName(name)


def drop(domain: Domain, name: str) -> None:
    """Delete a checkpoint; the one before it goes on to remember. One that is broken is only forgotten."""
    target = f"checkpoint '{name}' of {domain.target}"
    try:
        with libvirt_call("delete", target):
            _look_up(domain, name).delete(0)
    except CoreError:
        with libvirt_call("forget", target):
            _look_up(domain, name).delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
