"""Disks that the hypervisor reaches over the network, as templates see them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cloudify_libvirt.core.spec.disk import Disk


@dataclass(frozen=True)
class NetworkHost:
    """One server; ``port`` "" is the protocol's own."""

    name: str
    port: str = ""


@dataclass(frozen=True)
class NetworkAuth:
    """Who logs in, and the secret of libvirt with the key: ``by`` uuid or usage."""

    username: str
    type: str
    by: str
    secret: str


@dataclass(frozen=True)
class NetworkSource:
    """Where a disk's content is: the protocol's servers, and the name that they have for it."""

    protocol: str
    name: str
    hosts: tuple[NetworkHost, ...]
    initiator: str = ""
    auth: NetworkAuth | None = None


class NetworkDisk(Disk):
    """A disk whose volume is found: no user writes this, it is made of ``pool`` and ``volume``."""

    network: NetworkSource
