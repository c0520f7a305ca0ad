"""Images in operations: by name, by URL with a login that nothing records, with the catalogue's login for ssh."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import volume_tasks
from cloudify_libvirt.core.errors import ImageFailed, InvalidSpec
from cloudify_libvirt.core.host.addresses import Interface
from cloudify_libvirt.core.image.cache import Image, Progress
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import addresses, images
from tests.driver.conftest import MAC, Node
from tests.pure.image_server import RAW, Server, running, sha

CANARY = "me:S3CR3T-canary"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(RAW)
    return path


def asking(node: Node, **inputs: Any) -> Request:
    return Request(node.ctx(), "domain", inputs)


def fetched(node: Node) -> Image:
    request = asking(node)
    return images.fetch(request, request.spec.image)


def test_a_name_of_the_blueprints_catalogue(vm: Node, disk: Path) -> None:
    vm.resources["images.yaml"] = f"mine: {{url: {disk}, checksum: {sha(RAW)}, ssh_user: jo}}".encode()
    vm.params["image"] = {"source": "mine", "catalogue": "images.yaml"}
    assert fetched(vm).path == disk
    card = Interface(MAC, "default", "vnet0", [{"addr": "10.0.0.5", "prefix": 24, "type": 0}])
    addresses.write(asking(vm), [card])
    assert vm.runtime["ssh_command"] == "ssh jo@10.0.0.5"
    vm.params["ssh_user"] = "root"
    asking(vm).params  # noqa: B018 - reading records them
    addresses.write(asking(vm), [card])
    assert vm.runtime["ssh_command"] == "ssh root@10.0.0.5"
    vm.params["image"] = str(disk)
    fetched(vm)
    assert vm.runtime["image_user"] is None


def test_what_the_user_says_beats_the_catalogue(vm: Node, disk: Path) -> None:
    vm.resources["images.yaml"] = f"mine: {{url: {disk}, checksum: {sha(b'x')}, format: qcow2}}".encode()
    vm.params["image"] = {"source": "mine", "catalogue": "images.yaml", "checksum": sha(RAW), "format": "raw"}
    assert fetched(vm).format == "raw"


def test_the_architecture_chooses_the_file(vm: Node, disk: Path) -> None:
    vm.resources["images.yaml"] = f"mine: {{files: {{s390x: {{url: {disk}}}}}}}".encode()
    vm.params["image"] = {"source": "mine", "catalogue": "images.yaml"}
    with pytest.raises(InvalidSpec, match="for s390x, not for i686"):  # the test driver's
        fetched(vm)
    vm.params["arch"] = "s390x"
    assert fetched(vm).path == disk


def test_a_source_without_a_slash(vm: Node, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name first, then a file of the working directory, then an error that names both."""
    monkeypatch.chdir(disk.parent)
    vm.params["image"] = "disk.img"
    assert fetched(vm).path == disk
    vm.resources["images.yaml"] = b"disk.img: {url: /nowhere/else.img}"
    vm.params["image"] = {"source": "disk.img", "catalogue": "images.yaml"}
    with pytest.raises(ImageFailed, match=r"/nowhere/else\.img"):
        fetched(vm)
    vm.params["image"] = {"source": "./disk.img", "catalogue": "images.yaml"}
    assert fetched(vm).path == disk
    vm.params["image"] = "debain-12"
    with pytest.raises(InvalidSpec, match=r"neither a name of the image catalogue nor a file.*debian-12"):
        fetched(vm)


def test_a_login_of_a_property_is_used_and_never_recorded(
    vm: Node, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.behaviour.login = CANARY
    vm.params["image"] = {"source": server.url("/disk.img?token=S3CR3T", CANARY), "format": "raw"}
    for _ in range(2):  # the second operation has what the first one recorded
        assert fetched(vm).sha256 == sha(RAW)
        assert vm.runtime["params"]["image"] == {"source": server.url("/disk.img?..."), "format": "raw"}
    asking(vm).record.put(any="thing")
    assert vm.stored and "S3CR3T" not in json.dumps([vm.stored, vm.runtime], default=str)
    assert CANARY not in caplog.text


def test_a_login_of_an_input_is_not_recorded_either(vm: Node, server: Server) -> None:
    request = asking(vm, params={"image": server.url("/disk.img?v=2", CANARY)})
    assert CANARY in request.spec.image.source
    assert vm.runtime["params"]["image"] == server.url("/disk.img?v=2")
    assert asking(vm).spec.image.source == server.url("/disk.img?v=2")


def test_a_login_is_in_no_error(session: Session, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for status, login in ((404, CANARY), (200, "other:login")):
        server.behaviour.status, server.behaviour.login = status, login
        url = server.url("/disk.img?token=S3CR3T", CANARY)
        node = Node("data", params={"name": f"v{status}", "pool": "default-pool", "image": url})
        with pytest.raises(NonRecoverableError) as failure:
            node.run(volume_tasks.create)
        assert "the server answers" in str(failure.value)
        assert "S3CR3T" not in str(failure.value) + json.dumps([node.stored, node.runtime], default=str)
    assert CANARY not in caplog.text


def test_the_log_of_a_long_download_is_short(vm: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], list[tuple[float, str]]()
    monkeypatch.setattr(images.time, "monotonic", lambda: now[0])
    request = asking(vm)
    monkeypatch.setattr(request.record, "note", lambda text: said.append((now[0], text)))
    report = images._Reporter(request, "https://me:pw@h/disk.img")
    for half_seconds in range(2 * 3600):
        now[0] = half_seconds / 2
        report(Progress(half_seconds << 20, 7200 << 20, 2 << 20))
    assert said[0] == (2.0, "image disk.img: download 4 MiB of 7 GiB, 2 MiB/s")
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(said)]
    assert 100 < len(said) < 130 and max(gaps) <= 30 and gaps == sorted(gaps)
