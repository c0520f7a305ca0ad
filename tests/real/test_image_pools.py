"""A name of the blueprint's catalogue becomes a machine; its base image goes when nobody needs it, not before."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cloudify_libvirt.core.image.cache import ImageCache
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.storage.bases import Claim, Wish, overlay
from tests.real.attempts import SHELF, Attempt, names, vm, volume
from tests.real.conftest import ROOT, Host, virsh

URI = "qemu:///system"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An image that a machine can have, though it does not boot from it."""
    (tmp_path / "web").mkdir()
    path = tmp_path / "web" / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    return path


@pytest.fixture
def site(disk: Path) -> Iterator[str]:
    """A web server that has it."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(disk.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def command(directory: Path, *arguments: str) -> str:
    environment = {**os.environ, "CLOUDIFY_LIBVIRT_CACHE": str(directory)}
    words = [ROOT / ".venv/bin/cfy-libvirt", *arguments]
    return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout


def pruned(directory: Path) -> str:
    return command(directory, "cache", "prune", "--pools", "--uri", URI)


def bases() -> list[str]:
    return [name for name in names(SHELF) if name.startswith("base-")]


def test_a_machine_from_a_name(
    attempt: Attempt,
    shelf: Any,
    cache: Path,
    site: str,
    disk: Path,
    clean_host: Host,
) -> None:
    packed = lzma.compress(disk.read_bytes(), preset=0)
    (disk.with_name("disk.qcow2.xz")).write_bytes(packed)
    (disk.with_name("SHA256SUMS")).write_text(f"{hashlib.sha256(packed).hexdigest()} *disk.qcow2.xz\n")
    names_file = f"mine:\n  url: {site}/disk.qcow2.xz\n  checksum: {site}/SHA256SUMS\n  ssh_user: root\n"
    machine = vm(image={"source": "mine", "catalogue": "images.yaml"}, pool="shelf")
    result = attempt.install({"thing": machine}, files={"images.yaml": names_file})
    assert result.code == 0, result.output[-3000:]
    assert result.lines(f"image mine: {site}/disk.qcow2.xz (images.yaml)")
    (base,) = bases()
    listed = json.loads(command(cache, "cache", "list", "--uri", URI, "--json"))
    assert [(image["sources"], image["format"]) for image in listed["images"]] == [([f"{site}/disk.qcow2.xz"], "qcow2")]
    (found,) = listed["bases"]
    assert (found["pool"], found["name"]) == ("shelf", base)
    assert any("vm-root.qcow2" in user for user in found["users"])
    said = pruned(cache)
    assert base not in said and "removed 1," in said  # the copy in the cache is not needed by the machine
    assert bases() == [base]
    assert virsh("domstate", "vm").strip() == "running"
    attempt.cfy.uninstall("bad")
    assert bases() == []


def test_a_base_that_nobody_needs(shelf: Any, tmp_path: Path, disk: Path) -> None:
    session = connect(URI)
    pool = Pool.get(session, "shelf")
    image = ImageCache(tmp_path / "cache").fetch(str(disk))
    made = overlay(pool, Wish("one.qcow2"), image, Claim(False, lambda: None))
    (base,) = bases()
    assert base not in pruned(tmp_path / "cache")
    assert bases() == [base]
    made.handle.delete(0)  # by somebody who knows nothing of bases
    dry = command(tmp_path / "cache", "cache", "prune", "--pools", "--uri", URI, "--dry-run")
    assert f"would remove {base} from pool shelf" in dry
    assert bases() == [base]
    (SHELF / "base-of-mine.qcow2").write_bytes(b"")
    assert f"removed {base} from pool shelf" in pruned(tmp_path / "cache")
    assert names(SHELF) == ["base-of-mine.qcow2"]


def test_a_login_in_a_url_is_recorded_by_no_instance(
    attempt: Attempt, shelf: Any, cache: Path, site: str, clean_host: Host
) -> None:
    url = site.replace("http://", "http://me:S3CR3T-canary@") + "/disk.qcow2?token=S3CR3T-canary"
    nodes = {"thing": vm(image=url, pool="shelf"), "data": volume(image={"source": url})}
    result = attempt.install(nodes)
    assert result.code == 0, result.output[-3000:]
    stored = [path for path in attempt.cfy.directory.rglob("node-instances/*") if path.is_file()]
    assert len(stored) == 2
    assert [path.name for path in stored if "S3CR3T" in path.read_text()] == []
    assert all(f"{site}/disk.qcow2?..." in path.read_text() for path in stored)
    assert "S3CR3T" not in result.output
    attempt.cfy.uninstall("bad")
