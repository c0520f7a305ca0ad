"""Networks made by the plugin's own operations, and a container with a card on each, looked into from the host."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import libvirt
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks, network_tasks
from cloudify_libvirt.core.image.rootfs import extract_root
from tests.driver.conftest import Node

QEMU, LXC = "qemu:///system", "lxc:///system"
T = TypeVar("T")


def eventually(ask: Callable[[], T], seconds: float = 60) -> T:
    """Return what ``ask`` says as soon as it is true, or its last answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(0.05)


def command(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert not check or done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
    return done.stdout + ("" if check else done.stderr)


@dataclass
class Networks:
    """Networks of node instances, removed in the end as uninstall does."""

    connection: Any = field(default_factory=lambda: libvirt.open(QEMU))
    nodes: dict[str, Node] = field(default_factory=dict)

    def create(self, name: str, **params: Any) -> Node:
        node = self.nodes[name] = Node(
            name=name, params={"name": name, **params}, properties={"libvirt_auth": QEMU}, deployment="nets"
        )
        node.run(network_tasks.validate)
        node.run(network_tasks.create)
        return node

    def refused(self, name: str, **params: Any) -> str:
        """Return why a network is refused before anything is made."""
        node = Node(name=name, params={"name": name, **params}, properties={"libvirt_auth": QEMU}, deployment="nets")
        try:
            node.run(network_tasks.validate)
        except NonRecoverableError as error:
            return str(error)
        raise AssertionError(f"{name} was not refused")

    def xml(self, name: str) -> str:
        return str(self.connection.networkLookupByName(name).XMLDesc(0))

    def remove(self) -> None:
        for name in list(self.nodes):
            self.nodes.pop(name).run(network_tasks.delete)


@dataclass
class Container:
    """A container whose cards are those given; it asks for DHCP on each."""

    name: str
    root: Path
    cards: list[str]
    autoconfigure: bool = True
    domain: Any = None

    def start(self, archive: Path) -> None:
        if not (self.root / "sbin").exists():
            extract_root(archive, self.root)
        init = "/sbin/init" if self.autoconfigure else "/bin/sleep"
        argument = "" if self.autoconfigure else "<initarg>1000000</initarg>"
        self.domain = libvirt.open(LXC).createXML(
            f"<domain type='lxc'><name>{self.name}</name><memory unit='MiB'>64</memory>"
            f"<os><type>exe</type><init>{init}</init>{argument}</os><features><privnet/></features><devices>"
            f"<filesystem type='mount'><source dir='{self.root}'/><target dir='/'/></filesystem>"
            f"{''.join(self.cards)}<console type='pty'/></devices></domain>"
        )

    @property
    def pid(self) -> str:
        """The process id of the container's init."""
        controller = self.domain.ID()
        return eventually(lambda: Path(f"/proc/{controller}/task/{controller}/children").read_text().strip())

    def __call__(self, *words: str, check: bool = True) -> str:
        """Run a program of the container in it."""
        return command("nsenter", "-t", self.pid, "-m", "-n", "-u", *words, check=check)

    def addresses(self, card: str, family: str) -> list[str]:
        """The addresses of one card, but link-local ones, as the host's ip sees them in the container."""
        said = json.loads(command("nsenter", "-t", self.pid, "-n", "ip", "-j", "addr", "show", "dev", card))
        return [a["local"] for a in said[0]["addr_info"] if a["family"] == family and a["scope"] == "global"]

    def link(self, card: str) -> dict[str, Any]:
        said = json.loads(command("nsenter", "-t", self.pid, "-n", "ip", "-j", "link", "show", "dev", card))
        return dict(said[0])

    def host_side(self, at: int) -> str:
        """The name of a card's veth on the host."""
        targets = [line for line in self.domain.XMLDesc(0).splitlines() if "<target dev=" in line]
        return targets[at].split("'")[1]

    def stop(self) -> None:
        if self.domain is not None and self.domain.isActive():
            self.domain.destroy()


def card(network: str, more: str = "", mac: str = "") -> str:
    address = f"<mac address='{mac}'/>" if mac else ""
    return f"<interface type='network'><source network='{network}'/>{address}{more}</interface>"


@contextmanager
def machine(name: str, **params: Any) -> Iterator[Any]:
    """A running domain without an operating system, made and removed by the plugin's own operations."""
    given = {"name": name, "memory": "32 MiB", "hardware": "modern", "wait_for_ip": False, "shutdown_timeout_s": 1}
    node = Node(name=name, params={**given, **params}, properties={"libvirt_auth": QEMU}, deployment="nets")
    try:
        for operation in (domain_tasks.validate, domain_tasks.create, domain_tasks.configure, domain_tasks.start):
            node.run(operation)
        yield libvirt.open(QEMU).lookupByName(name)
    finally:
        for operation in (domain_tasks.stop, domain_tasks.delete):
            node.run(operation)


def host_links() -> Iterator[dict[str, Any]]:
    yield from json.loads(command("ip", "-j", "-d", "link"))
