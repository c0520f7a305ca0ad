"""Section 9: defects that only a real hypervisor shows; domains without an operating system, which start at once."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks, iso9660_tasks, network_tasks, pool_tasks, volume_tasks
from tests.driver.conftest import Node
from tests.real.attempts import SHELF, foreign_domain
from tests.real.conftest import IMAGES, QEMU, Host, virsh

pytestmark = pytest.mark.lab

# A boot sector that jumps to itself: all of one processor, from the first moment on.
BUSY = b"\xeb\xfe" + bytes(508) + b"\x55\xaa"


MODULES = {"pool": pool_tasks, "net": network_tasks, "vm": domain_tasks, "volume": volume_tasks}
made: list[tuple[Node, Any]] = []


def node(name: str, **params: Any) -> Node:
    found = Node(name=name, deployment="contract", params={"name": name, **params}, properties={"libvirt_auth": QEMU})
    made.append((found, MODULES[name.rstrip("0123456789")]))
    return found


def machine(name: str = "vm", **params: Any) -> Node:
    return node(name, **{"memory_size": 32768, "wait_for_ip": False, "shutdown_timeout_s": 1, **params})


def run(found: Node, module: Any, *names: str) -> None:
    for name in names:
        found.run(getattr(module, name))


@pytest.fixture(autouse=True)
def cleared(host: Host) -> Iterator[None]:
    """What a test made goes, also when it failed; to end it a second time is nothing."""
    made.clear()
    yield
    for found, module in reversed(made):
        run(found, module, *(name for name in ("stop", "delete") if hasattr(module, name)))
    for file in IMAGES.glob("contract-*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()


@pytest.fixture
def vm(clean_host: Host) -> Iterator[Node]:
    """A machine that runs; it goes after the test."""
    found = machine()
    run(found, domain_tasks, "create", "configure", "start")
    yield found
    run(found, domain_tasks, "stop", "delete")


def test_a3_a_pools_directory_stays_while_somebody_elses_file_is_in_it(clean_host: Host) -> None:
    path = IMAGES / "contract-pool"
    pool = node("pool", path=str(path))
    run(pool, pool_tasks, "create", "configure", "start")
    foreign = path / "theirs.raw"
    foreign.write_bytes(b"theirs")
    run(pool, pool_tasks, "stop")
    assert foreign.read_bytes() == b"theirs"
    run(pool, pool_tasks, "delete")
    assert foreign.read_bytes() == b"theirs" and "pool" not in clean_host.pools()
    foreign.unlink()
    path.rmdir()


def test_a3_a_directory_that_was_there_before_stays(clean_host: Host) -> None:
    path = IMAGES / "contract-before"
    path.mkdir()
    pool = node("pool", path=str(path))
    run(pool, pool_tasks, "create", "configure", "start", "stop", "delete")
    assert path.is_dir()
    path.rmdir()


def test_b9_a_running_machine_that_was_removed_behind_our_back_uninstalls(clean_host: Host) -> None:
    found = machine()
    run(found, domain_tasks, "create", "configure", "start")
    virsh("destroy", "vm")
    virsh("undefine", "vm")
    run(found, domain_tasks, "prestop", "stop", "delete")
    assert found.runtime == {"resource_id": None}


def test_b11_zeros_and_raw_files_are_bytes(clean_host: Host, shelf: Any) -> None:
    volume = node("volume", pool="shelf", capacity=2, allocation="1", zero_wipe="true")
    volume.run(volume_tasks.create)
    path = SHELF / "volume"
    path.write_bytes(b"\xff" * 2**21)
    volume.run(volume_tasks.start)
    assert path.read_bytes()[: 2**20] == bytes(2**20)
    raw = bytes(range(256)) * 9
    iso = Node(name="iso", deployment="contract", properties={"libvirt_auth": QEMU}, resources={"files/raw.bin": raw})
    given = {"volume": "volume", "pool": "shelf", "files": {"raw": "wins not"}, "files_raw": {"raw": "files/raw.bin"}}
    iso.run(iso9660_tasks.create, params=given)
    shown = subprocess.run(["isoinfo", "-J", "-x", "/raw", "-i", path], capture_output=True, check=True).stdout
    assert shown == raw
    run(volume, volume_tasks, "stop", "delete")


def test_b16_a_machine_that_cannot_run_is_not_started(clean_host: Host) -> None:
    disk = IMAGES / "contract-disk.raw"
    disk.write_bytes(BUSY)
    found = machine(disks=[{"file": str(disk), "type": "raw"}])
    run(found, domain_tasks, "create", "configure")
    disk.unlink()
    with pytest.raises(NonRecoverableError, match=r"cannot start domain 'vm'.*contract-disk\.raw"):
        found.run(domain_tasks.start)
    run(found, domain_tasks, "stop", "delete")


def test_b16_stop_ends_what_does_not_listen_and_what_is_paused(vm: Node, clean_host: Host) -> None:
    begin = time.monotonic()
    vm.run(domain_tasks.stop)
    assert not clean_host.domain("vm").isActive() and time.monotonic() - begin < 60
    vm.run(domain_tasks.start)
    vm.run(domain_tasks.suspend)
    assert clean_host.domain("vm").state()[0] == libvirt.VIR_DOMAIN_PAUSED
    vm.run(domain_tasks.stop)
    assert not clean_host.domain("vm").isActive()


def test_b19_a_saved_state_does_not_keep_the_definition(clean_host: Host) -> None:
    found = machine()
    run(found, domain_tasks, "create", "configure", "start")
    clean_host.domain("vm").managedSave()
    run(found, domain_tasks, "stop", "delete")
    assert "vm" not in clean_host.domains()


def test_b20_processor_time_is_counted_once_and_in_less_than_a_second(clean_host: Host) -> None:
    disk = IMAGES / "contract-busy.raw"
    disk.write_bytes(BUSY + bytes(2**20))
    found = machine(disks=[{"file": str(disk), "type": "raw", "bus": "ide", "dev": "hda"}])
    run(found, domain_tasks, "create", "configure", "start")
    # The firmware comes first, and rests between its steps.
    handle, deadline = clean_host.domain("vm"), time.monotonic() + 180
    while min(_percent(handle, 0.3) for _ in range(4)) < 10:
        assert time.monotonic() < deadline, "it never got busy"
    # Of several: a busy machine gives the guest more now and less then.
    ratios, seconds = [], []
    for _ in range(7):
        results: list[float] = []
        other = threading.Thread(target=lambda results=results: results.append(_percent(handle, 0.9)))
        other.start()
        begin = time.monotonic()
        stat = found.run(domain_tasks.perfomance)
        seconds.append(time.monotonic() - begin)
        other.join()
        ratios.append(stat["cpu"] / results[0])
    assert min(seconds) < 1.0
    assert 0.6 < sorted(ratios)[3] < 1.5, ratios
    assert stat == found.runtime["stat"] and stat["memory"] == 64, "nobody in it gives memory back"
    run(found, domain_tasks, "stop", "delete")
    disk.unlink()


def _percent(handle: libvirt.virDomain, seconds: float) -> float:
    begin, used = time.monotonic(), handle.info()[4]
    time.sleep(seconds)
    return float(handle.info()[4] - used) / 1e7 / (time.monotonic() - begin)


def test_b21_a_device_of_a_running_machine_is_changed_there_and_in_the_definition(vm: Node, clean_host: Host) -> None:
    for target, name in (("vdb", "attach_device_flags"), ("vdb", "detach_device_flags")):
        vm.run(getattr(domain_tasks, name), timeout_s=0.3, params={"networks": [{"user": True, "type": "e1000"}]})
        stored = clean_host.domain("vm").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        live = clean_host.domain("vm").XMLDesc()
        assert target
        if name.startswith("attach"):
            assert "type='user'" in stored and "type='user'" in live
        else:
            assert "type='user'" not in stored
            assert vm.runtime["detach_pending"], "nothing in the machine gave it back, and that is said"


def test_c1_a_trivial_machine_takes_seconds(clean_host: Host) -> None:
    """The fixed sleeps of the existing plugin alone are 36 s."""
    network = node("net", dev="vbrc1", ips=[{"address": "10.98.41.1", "netmask": "255.255.255.0"}])
    pool, vm = node("pool", path=str(IMAGES / "contract-c1")), machine(networks=[{"network": "net"}])
    begin = time.monotonic()
    run(pool, pool_tasks, "create", "configure", "start")
    run(network, network_tasks, "create")
    run(
        vm, domain_tasks, "create", "configure", "start", "suspend", "resume", "perfomance", "prestop", "stop", "delete"
    )
    run(network, network_tasks, "delete")
    run(pool, pool_tasks, "stop", "delete")
    assert time.monotonic() - begin < 30


def test_c2_waiting_for_an_address_holds_no_worker_and_has_an_end(clean_host: Host) -> None:
    network = node("net", dev="vbrc2", ips=[{"address": "10.98.42.1", "netmask": "255.255.255.0"}])
    vm = machine(networks=[{"network": "net"}], wait_for_ip=True, address_timeout_s=8)
    run(network, network_tasks, "create")
    run(vm, domain_tasks, "create", "configure")
    begin = time.monotonic()
    vm.run(domain_tasks.start)
    assert time.monotonic() - begin < 60, "start itself does not wait"
    with pytest.raises(NonRecoverableError, match="address"):
        while not vm.run(domain_tasks.get_state):
            assert time.monotonic() - begin < 120
    assert time.monotonic() - begin >= 8
    run(vm, domain_tasks, "stop", "delete")
    run(network, network_tasks, "delete")


class Served(BaseHTTPRequestHandler):
    """Counts whole downloads of one image."""

    content = BUSY * 4096
    whole = 0

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if self.headers.get("If-None-Match") == '"one"':
            self.send_response(304)
            self.end_headers()
            return
        self._head()
        # Before, as the client may be ahead of what comes behind it.
        type(self).whole += 1
        self.wfile.write(self.content)

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", '"one"')
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


def test_c4_an_image_is_downloaded_once_for_many_volumes(
    clean_host: Host, shelf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDIFY_LIBVIRT_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/image.raw"
        volumes = [node(f"volume{number}", pool="shelf", url=url) for number in range(3)]
        for volume in volumes:
            run(volume, volume_tasks, "create", "start")
        server.shutdown()
    assert [(SHELF / f"volume{number}").read_bytes() == Served.content for number in range(3)] == [True] * 3
    assert Served.whole == 1
    for volume in volumes:
        run(volume, volume_tasks, "stop", "delete")


def test_a5_a_machine_of_somebody_else_survives_an_install_under_its_name(clean_host: Host) -> None:
    theirs = clean_host.connection.defineXML(foreign_domain("vm"))
    found = machine()
    with pytest.raises(NonRecoverableError, match="another domain"):
        run(found, domain_tasks, "create", "configure")
    run(found, domain_tasks, "stop", "delete")
    assert clean_host.domain("vm").UUIDString() == theirs.UUIDString()
    theirs.undefine()
