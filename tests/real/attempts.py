"""What the tests of bad input share: small blueprints, an install that must fail, things of somebody else."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.real.conftest import Cfy, Host, Result

Node = dict[str, Any]

SHELF = Path("/var/lib/libvirt/images/shelf")
ONE_RETRY = ("--task-retries", "1", "--task-retry-interval", "1")


def node(kind: str, inputs: Node | None = None, operation: str = "configure", **properties: Any) -> Node:
    """A node template; ``inputs`` are those of one operation of its life cycle."""
    found: Node = {"type": f"cloudify.libvirt.{kind}", "properties": properties}
    if inputs:
        found["interfaces"] = {"cloudify.interfaces.lifecycle": {operation: {"inputs": inputs}}}
    return found


def vm(inputs: Node | None = None, **params: Any) -> Node:
    """A machine without disk and network, but for what ``params`` say."""
    bare = {"name": "vm", "memory": "64 MiB", "wait_for_ip": False, "shutdown_timeout_s": 0}
    return node("domain", inputs, params={**bare, **params})


def volume(inputs: Node | None = None, **params: Any) -> Node:
    return node("volume", inputs, "create", params={"name": "volume", "pool": "shelf", **params})


@dataclass
class Attempt:
    """Installs what cannot work."""

    cfy: Cfy
    host: Host
    directory: Path

    def blueprint(self, nodes: dict[str, Node], files: dict[str, str]) -> Path:
        self.directory.mkdir(exist_ok=True)
        for name, text in files.items():
            (self.directory / name).write_text(text)
        imports = ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"]
        document = {
            "tosca_definitions_version": "cloudify_dsl_1_3",
            "imports": imports,
            "inputs": {name: {"default": ""} for name in ("text", "name", "title")},
            "node_templates": nodes,
            "outputs": {"ip": {"value": {"get_attribute": [next(iter(nodes)), "ip"]}}},
        }
        path = self.directory / "blueprint.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def install(self, nodes: dict[str, Node], *options: str, files: dict[str, str] | None = None) -> Result:
        return self.cfy("install", self.blueprint(nodes, files or {}), "-b", "bad", *options, check=False)

    def refused(self, bad: Node, operation: str, *options: str, files: dict[str, str] | None = None) -> str:
        """Install one node, which must fail at once in that operation, leaving nothing; return what was said."""
        said, attempts = self.failed(bad, operation, *options, files=files)
        assert attempts == 1, "retried, though it cannot help"
        return said

    def failed(self, bad: Node, operation: str, *options: str, files: dict[str, str] | None = None) -> tuple[str, int]:
        """Like ``refused``, with the number of attempts."""
        before = self.host.everything()
        result = self.install({"thing": bad}, *options, files=files)
        assert result.code == 1, result.output[-3000:]
        assert "Traceback" not in result.output
        function = f"_tasks.{operation}'"
        failures = result.lines("Task failed", function)
        assert failures, result.output[-3000:]
        assert len(failures) == len(result.lines("Task failed '")) == len(result.lines("Task started", function))
        assert self.host.settled(before) == before, "left behind by the install that failed"
        self.cfy.uninstall("bad")
        assert self.host.settled(before) == before, "left behind by the uninstall"
        said = failures[0].split(" -> ", 1)[1]
        assert re.match(r"thing_\w+: cannot ", said), said
        print(said)
        return said, len(failures)


@pytest.fixture
def attempt(cfy: Cfy, host: Host, tmp_path: Path) -> Attempt:
    return Attempt(cfy, host, tmp_path / "blueprint")


@pytest.fixture
def foreign(host: Host) -> Iterator[Callable[[str, str], Any]]:
    """Define objects of somebody else; they go after the test."""
    made: list[Any] = []

    def define(kind: str, xml: str) -> Any:
        calls = {"domain": "defineXML", "network": "networkDefineXML", "pool": "storagePoolDefineXML"}
        made.append(getattr(host.connection, calls[kind])(xml))
        return made[-1]

    yield define
    for thing in reversed(made):
        if thing.isActive():
            thing.destroy()
        thing.undefine()


@pytest.fixture
def shelf(foreign: Callable[[str, str], Any]) -> Iterator[Any]:
    """A pool that exists."""
    SHELF.mkdir()
    pool = foreign("pool", f"<pool type='dir'><name>shelf</name><target><path>{SHELF}</path></target></pool>")
    pool.create()
    yield pool
    shutil.rmtree(SHELF)


def foreign_domain(name: str, inner: str = "") -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os>"
        f"<devices>{inner}</devices></domain>"
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def says(said: str, *words: str) -> None:
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not said in: {said}"


@pytest.fixture
def web(tmp_path: Path, tiny: Path) -> Iterator[str]:
    """The small image on a web server."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "tiny.qcow2").symlink_to(tiny)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cache(attempt: Attempt, tmp_path: Path) -> Path:
    """An image cache of its own."""
    directory = tmp_path / "cache"
    attempt.cfy.environment["CLOUDIFY_LIBVIRT_CACHE"] = str(directory)
    return directory


def cached(directory: Path) -> list[str]:
    """What the cache keeps, besides its locks."""
    return [path.name for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock"]
