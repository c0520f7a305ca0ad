"""Two pools of somebody else's, nodes of ours that put volumes into them, and a small disk to copy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cloudify_libvirt import volume_tasks
from tests.driver.conftest import Node

if TYPE_CHECKING:
    from tests.real.conftest import Host

QEMU = "qemu:///system"
MIB = 1024**2
MARKER = b"the marker of this test " * 40


class Shelf:
    """Two pools of somebody else's, and nodes of ours that put volumes into them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: list[Node] = []

    def node(self, name: str, **params: Any) -> Node:
        given = {"name": name, "pool": "shelf-one", **params}
        node = Node(name=name, params=given, properties={"libvirt_auth": QEMU}, deployment="shelf")
        self.nodes.append(node)
        return node

    def make(self, name: str, **params: Any) -> Node:
        node = self.node(name, **params)
        for operation in (volume_tasks.validate, volume_tasks.create, volume_tasks.start):
            node.run(operation)
        return node

    def path(self, name: str, pool: str = "one") -> Path:
        return self.directory / pool / name

    def names(self, pool: str = "one") -> list[str]:
        return sorted(path.name for path in (self.directory / pool).iterdir())


@pytest.fixture
def pools(host: Host) -> Iterator[Shelf]:
    """The pools; after the test our nodes are deleted, and nothing may be left in them."""
    directory = Path("/var/lib/libvirt/images/volumes-test")
    handles = []
    for name in ("one", "two"):
        (directory / name).mkdir(parents=True)
        xml = f"<pool type='dir'><name>shelf-{name}</name><target><path>{directory / name}</path></target></pool>"
        handles.append(host.connection.storagePoolDefineXML(xml))
        handles[-1].create()
    shelf = Shelf(directory)
    yield shelf
    for node in reversed(shelf.nodes):
        node.run(volume_tasks.delete)
    left = [*shelf.names("one"), *shelf.names("two")]
    for handle in handles:
        handle.destroy()
        handle.undefine()
    subprocess.run(["rm", "-rf", directory], check=True)
    assert left == []


def as_raw(path: Path) -> bytes:
    target = path.with_name("as-raw")
    try:
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", path, target], check=True)
        return target.read_bytes()
    finally:
        target.unlink(missing_ok=True)


@pytest.fixture
def raw_file(tmp_path: Path) -> Path:
    """16 MiB, sparse, with data at the beginning and in the middle."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.write(MARKER)
        file.seek(9 * MIB)
        file.write(MARKER)
        file.truncate(16 * MIB)
    return path
