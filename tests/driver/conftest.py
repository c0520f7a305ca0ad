"""libvirt's built-in test driver: real libvirt calls, no hypervisor, no root. Source: https://libvirt.org/drvtest.html"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import libvirt
import pytest
from cloudify.mocks import MockCloudifyContext, MockNodeInstanceContext
from cloudify.state import current_ctx

from cloudify_libvirt import network_tasks
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.session import Session, connect

URI = "test:///default"
MAC = "52:54:00:00:00:01"


@pytest.fixture
def session() -> Iterator[Session]:
    """The connection; what a test leaves on it is removed afterwards."""
    session = connect(URI)
    before = everything(session.connection)
    yield session
    clear(session.connection, before)


def everything(connection: Any) -> set[str]:
    """The UUIDs of all objects and the keys of all volumes."""
    pools = connection.listAllStoragePools()
    listed = [*connection.listAllDomains(), *connection.listAllNetworks(), *pools]
    volumes = {volume.key() for pool in pools if pool.isActive() for volume in pool.listAllVolumes()}
    return {handle.UUIDString() for handle in listed} | volumes


def clear(connection: Any, kept: set[str]) -> None:
    flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    for domain in connection.listAllDomains():
        if domain.UUIDString() not in kept:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(flags)
    for pool in connection.listAllStoragePools():
        if pool.isActive():
            for volume in pool.listAllVolumes():
                if volume.key() not in kept:
                    volume.delete()
    for handle in [*connection.listAllNetworks(), *connection.listAllStoragePools()]:
        if handle.UUIDString() not in kept:
            if handle.isActive():
                handle.destroy()
            handle.undefine()


def domain_xml(name: str, *, network: str = "default", mac: str = MAC, extra: str = "", uid: str = "") -> str:
    card = f"<interface type='network'><mac address='{mac}'/><source network='{network}'/></interface>"
    return (
        f"<domain type='test'><name>{name}</name><uuid>{uid or uuid.uuid4()}</uuid><memory>1024</memory>"
        f"<os><type>hvm</type></os><devices>{card if network else ''}{extra}</devices></domain>"
    )


def define(session: Session, name: str, **how: str) -> Domain:
    uid = str(uuid.uuid4())
    return Domain.define(session, domain_xml(name, uid=uid, **how), name, uid)


def network_xml(name: str, address: str, uid: str, bridge: str = "") -> str:
    return (
        f"<network><name>{name}</name><uuid>{uid}</uuid><bridge name='{bridge or name}'/>"
        f"<ip address='{address}' netmask='255.255.255.0'><dhcp>"
        f"<range start='{address}0' end='{address}9'/></dhcp></ip></network>"
    )


def define_network(session: Session, name: str, address: str = "10.99.1.1", bridge: str = "") -> Network:
    uid = str(uuid.uuid4())
    return Network.define(session, network_xml(name, address, uid, bridge), name, uid)


class CountingInstance(MockNodeInstanceContext):  # type: ignore[misc]
    """Remembers what was stored at each ``update``, and in ``_domains`` which domains there were then."""

    def __init__(self, uri: str, **how: Any) -> None:
        super().__init__(**how)
        self.uri = uri
        self.stored: list[dict[str, Any]] = []

    def update(self) -> None:
        there = [handle.name() for handle in connect(self.uri).connection.listAllDomains()]
        self.stored.append({**self.runtime_properties, "_domains": there})


@dataclass
class Node:
    """One node instance, as the engine keeps it between operations."""

    uri: ClassVar[str] = URI
    name: str = "vm"
    params: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    deployment: str = "dep"
    index: int = 0
    stored: list[dict[str, Any]] = field(default_factory=list)
    resources: dict[str, bytes] = field(default_factory=dict)
    workflow: str = ""
    # Which one it is, and how many more there may be; -1: any number.
    attempt: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        return f"{self.name}_x{self.index}"

    def ctx(self) -> Any:
        ctx = MockCloudifyContext(
            node_id=self.id, node_name=self.name, deployment_id=self.deployment, blueprint_id=self.deployment,
            properties={"libvirt_auth": self.uri, "params": self.params, **self.properties},
            runtime_properties=self.runtime, index=self.index, resources=self.resources,
            operation=dict(zip(("retry_number", "max_retries"), self.attempt or (), strict=False)),
        )  # fmt: skip
        ctx._instance = CountingInstance(self.uri, id=self.id, runtime_properties=self.runtime, index=self.index)
        ctx._instance.stored = self.stored
        if self.workflow:
            ctx._context["workflow_id"] = self.workflow
        return ctx

    def run(self, operation: Any, **inputs: Any) -> Any:
        """Call an operation as the engine does: with the context of the call in place."""
        ctx = self.ctx()
        current_ctx.set(ctx)
        try:
            return operation(ctx=ctx, **inputs)
        finally:
            current_ctx.clear()


@pytest.fixture
def vm(session: Session) -> Node:
    """A domain that the test driver can run: no image, one card on the default network."""
    return Node(params={"name": "vm", "memory": "64 MiB", "networks": [{"network": "default"}], "wait_for_ip": False})


def running_network(session: Session, name: str) -> str:
    """Return the definition of a network."""
    return str(session.connection.networkLookupByName(name).XMLDesc(0))


@pytest.fixture
def net(session: Session) -> Node:
    """A network that runs."""
    # This driver drops dnsmasq's options, which a network with cidr has.
    ips = [{"address": "10.99.7.1", "prefix": 24, "dhcp": {"start": "10.99.7.2", "end": "10.99.7.99"}}]
    node = Node(name="net", params={"name": "upd", "ips": ips})
    node.run(network_tasks.create)
    return node
