"""The defects of volumes in the contract's list: each test fails on the behaviour that the list describes."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import libvirt
import pytest

from cloudify_libvirt import volume_tasks
from cloudify_libvirt.core.storage import stream
from tests.real.shelf import MIB, QEMU, Shelf

DIGEST = hashlib.sha256


class Server:
    """A web server with the manners that broke downloads: redirects, no length, no ranges."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if self.path.startswith("/moved/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/moved"))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                # HTTP/1.0, no Content-Length: the end of the connection is the end of the file.
                self.send_response(200)
                self.end_headers()
                self.wfile.write(outer.files[self.path])

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CACHE", str(tmp_path / "cache"))
    found = Server()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def qcow2(raw_file: Path, tmp_path: Path) -> bytes:
    target = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw_file, target], check=True)
    return target.read_bytes()


def test_a1_stop_and_restart_leave_the_disk_of_a_running_machine_as_it_is(pools: Shelf, raw_file: Path) -> None:
    node = pools.make("disk", file=str(raw_file), zero_wipe=True, allocation=16)
    domain = libvirt.open(QEMU).createXML(
        "<domain type='qemu'><name>runs</name><memory>32768</memory><os><type arch='x86_64'>hvm</type></os><devices>"
        f"<disk type='file'><source file='{pools.path('disk')}'/><target dev='vda'/></disk></devices></domain>"
    )
    try:
        for operation in (volume_tasks.stop, volume_tasks.start, volume_tasks.stop):
            node.run(operation)
    finally:
        domain.destroy()
    assert pools.path("disk").read_bytes() == raw_file.read_bytes()


def test_a1_only_delete_wipes_and_only_on_wish(pools: Shelf, raw_file: Path) -> None:
    witnesses = {}
    for name, wish in (("kept", {}), ("wiped", {"wipe_on_delete": "true"})):
        node = pools.make(name, file=str(raw_file), **wish)
        witnesses[name] = pools.directory / f"second-name-of-{name}"
        witnesses[name].hardlink_to(pools.path(name))
        node.run(volume_tasks.stop)
        assert witnesses[name].read_bytes() == raw_file.read_bytes()
        node.run(volume_tasks.delete)
    assert witnesses["kept"].read_bytes() == raw_file.read_bytes()
    assert witnesses["wiped"].read_bytes() == bytes(16 * MIB)


@pytest.mark.parametrize("filled", ["by url", "with zeros"])
def test_a2_a_volume_is_filled_once(pools: Shelf, server: Server, filled: str) -> None:
    server.files["/disk"] = b"what the server has" * MIB
    source = (
        {"url": server.url("/disk")} if filled == "by url" else {"zero_wipe": "yes", "allocation": 1, "capacity": 1}
    )
    node = pools.make("disk", **source)
    asked = len(server.asked)
    with pools.path("disk").open("r+b") as file:
        file.write(b"what a guest wrote")
    for operation in (volume_tasks.start, volume_tasks.create, volume_tasks.start):
        node.run(operation)
    assert pools.path("disk").read_bytes().startswith(b"what a guest wrote")
    assert len(server.asked) == asked


def test_b13_more_than_one_send_carries(pools: Shelf, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"".join(DIGEST(str(n).encode()).digest() * (MIB // 32) for n in range(48)))
    pools.make("disk", file=str(big))
    assert DIGEST(pools.path("disk").read_bytes()).digest() == DIGEST(big.read_bytes()).digest()


def test_b13_a_broken_upload_is_aborted_and_leaves_nothing(
    pools: Shelf, raw_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stream.extents

    def shrinking(data: Any, size: int) -> Iterator[tuple[int, int, bool]]:
        for found in whole(data, size):
            with raw_file.open("r+b") as file:
                file.truncate(100)
            yield found

    monkeypatch.setattr(stream, "extents", shrinking)
    with pytest.raises(Exception, match="the source became shorter meanwhile"):
        pools.node("disk", file=str(raw_file)).run(volume_tasks.create)
    assert pools.names() == []
    monkeypatch.undo()
    pools.make("other", content="the connection goes on")
    assert pools.path("other").read_bytes() == b"the connection goes on"


def test_b14_redirects_and_servers_without_length_or_ranges(pools: Shelf, server: Server) -> None:
    server.files["/disk"] = bytes(MIB) + b"data" * MIB
    digest = DIGEST(server.files["/disk"]).hexdigest()
    pools.make("disk", url=server.url("/moved/disk"), checksum=f"sha256:{digest}")
    assert pools.path("disk").read_bytes() == server.files["/disk"]
    assert server.asked[0] == "/moved/disk" and "/disk" in server.asked


def test_b14_a_wrong_checksum_leaves_nothing(pools: Shelf, server: Server) -> None:
    server.files["/disk"] = b"not what was promised" * 1000
    node = pools.node("disk", url=server.url("/disk"), checksum="0" * 64)
    with pytest.raises(Exception, match=r"its sha256 is .*, expected 0000"):
        node.run(volume_tasks.create)
    assert pools.names() == [] and node.runtime["resource_id"] is None


def test_b23_the_format_is_found_and_recorded_and_the_disk_is_not_cut_to_the_file(
    pools: Shelf, server: Server, qcow2: bytes
) -> None:
    server.files["/image"] = qcow2
    pools.make("disk", url=server.url("/image"))
    handle = libvirt.open(QEMU).storageVolLookupByPath(str(pools.path("disk")))
    assert "<format type='qcow2'/>" in handle.XMLDesc()
    assert handle.info()[1] == 16 * MIB


def test_b23_clone_overlay_and_size(pools: Shelf, server: Server, qcow2: bytes) -> None:
    server.files["/image"] = qcow2
    clone = pools.make("clone", url=server.url("/image"), size="24 MiB")
    pools.make("overlay", url=server.url("/image"), mode="overlay")
    connection = libvirt.open(QEMU)
    assert connection.storageVolLookupByPath(str(pools.path("clone"))).info()[1] == 24 * MIB
    overlay = connection.storageVolLookupByPath(str(pools.path("overlay"))).XMLDesc()
    assert "<backingStore>" in overlay and "/base-" in overlay
    clone.run(volume_tasks.update, params={"size": "32 MiB"})
    assert connection.storageVolLookupByPath(str(pools.path("clone"))).info()[1] == 32 * MIB


@pytest.mark.parametrize("params", [{"size": "1 MiB"}, {"content": "text"}, {"size": "1 MiB", "format": "qcow2"}])
def test_d5_least_access_for_volumes(pools: Shelf, params: dict[str, Any]) -> None:
    pools.make("disk", **params)
    assert pools.path("disk").stat().st_mode & 0o777 == 0o600
