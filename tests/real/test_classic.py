"""A blueprint in the manner of the existing plugin's users: volumes, an ISO image, params as create inputs."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import IMAGES, ROOT, Cfy, Host, assert_no_drift, public_key, ssh, virsh

CLASSIC = ROOT / "tests/data/blueprints/classic.yaml"


@pytest.fixture
def image_url(tiny: Path) -> Iterator[str]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tiny.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{tiny.name}"
    server.shutdown()
    server.server_close()


def test_the_way_of_the_existing_plugin(cfy: Cfy, clean_host: Host, tiny: Path, image_url: str, key: Path) -> None:
    checksum = "sha256:" + hashlib.sha256(tiny.read_bytes()).hexdigest()
    cfy.install(CLASSIC, "classic", image_url=image_url, image_checksum=checksum, key=public_key(key),
                base_path=str(IMAGES / "classic"))  # fmt: skip
    outputs = cfy.outputs("classic")
    assert ssh(key, str(outputs["ip"]), "hostname; cat /sys/block/vdb/size").split() == ["classic", str(64 * 2048)]
    records = {instance["node_id"]: record(instance) for instance in cfy.instances("classic")}
    assert records["net"]["resource_id"] in clean_host.networks()
    assert records["boot"]["params"]["path"] == str(IMAGES / "classic/classic-boot")
    assert records["boot"]["params"]["capacity"] == records["boot"]["params"]["allocation"] > 0
    assert records["vm"]["params"]["networks"][0]["addrs"][0]["addr"] == outputs["ip"]
    assert set(records["seed"]) >= {"libvirt_auth", "params"} and "resource_id" not in records["seed"]
    xml = virsh("dumpxml", str(outputs["vm"]))
    assert "machine='pc-i440fx" in xml and "<controller type='scsi' index='0' model='virtio-scsi'>" in xml
    assert_no_drift(cfy, "classic")

    before = (IMAGES / "classic/classic-data").stat().st_mtime_ns
    cfy("executions", "start", "stop", "-b", "classic")
    assert (IMAGES / "classic/classic-data").stat().st_mtime_ns == before
    cfy.uninstall("classic")


def record(instance: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = instance["runtime_properties"]
    return found
