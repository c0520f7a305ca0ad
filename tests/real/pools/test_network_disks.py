"""A disk that QEMU reaches over the network, on a host whose QEMU lacks the part for it: said before it is made."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.real.conftest import ROOT, Cfy, Host
from tests.real.nodes import blueprint, node
from tests.real.pools.ceph import ADDRESS, POOL, USER, Ceph
from tests.real.pools.storage import INITIATOR, QEMU, TARGET, install, pool_node, uninstall

PARTS = "/usr/lib/x86_64-linux-gnu/qemu"


def in_own_mounts(cfy: Cfy, without: str, *arguments: object) -> str:
    """Run cfy where that part of QEMU is not installed; nobody else sees that."""
    hide = f"mkdir {cfy.directory}/parts && cp {PARTS}/*.so {cfy.directory}/parts && rm {cfy.directory}/parts/{without}"
    script = f'{hide} && mount --bind {cfy.directory}/parts {PARTS} && exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "cfy", ROOT / ".venv/bin/cfy"]
    done = subprocess.run([*map(str, command), *map(str, arguments)], env=cfy.environment, cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=240)  # fmt: skip
    assert done.returncode == 1, done.stdout[-3000:]
    return done.stdout


@pytest.fixture
def far_volume(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A pool of that type on this host, and one of its volumes."""
    if request.param == "rbd":
        ceph: Ceph = request.getfixturevalue("ceph")
        ceph.rbd("create", "--size", "8M", f"{POOL}/data")
        auth = {"username": USER, "password": ceph.key}
        pool, volume = pool_node("far", "rbd", source={"hosts": [ADDRESS], "name": POOL}, auth=auth), "data"
    else:
        port = request.getfixturevalue("iscsi")
        source = {"hosts": [f"127.0.0.1:{port}"], "target": TARGET, "initiator": INITIATOR}
        auth = {"username": "alice", "password": "correct-horse-1"}
        pool, volume = pool_node("far", "iscsi-direct", source=source, auth=auth), "unit:0:0:1"
    install(pool)
    yield request.param, volume
    if volume == "data":
        libvirt.open(QEMU).storagePoolLookupByName("far").storageVolLookupByName(volume).delete()
    uninstall(pool)


@pytest.mark.parametrize("far_volume", ["rbd", "iscsi"], indirect=True)
def test_it_is_refused_before_anything_is_made(
    far_volume: tuple[str, str], cfy: Cfy, clean_host: Host, tmp_path: Path
) -> None:
    """With the part there, the same blueprint is installed, and QEMU opens the disk."""
    protocol, volume = far_volume
    disk = {"pool": "far", "volume": volume, "type": "raw"}
    vm = node("domain", name="on-far", memory="32 MiB", wait_for_ip=False, shutdown_timeout_s=0, disks=[disk])
    path = blueprint(tmp_path, "far", vm=vm)
    said = in_own_mounts(cfy, f"block-{protocol}.so", "install", path, "-b", "far", "--task-retries", "3")
    assert f"this host's QEMU has no part for {protocol}" in said, said[-3000:]
    assert "apt-get install qemu-block-extra" in said and "Traceback" not in said
    assert "Task rescheduled" not in said, "no retry installs it"
    assert "on-far" not in clean_host.domains()
    cfy.uninstall("far")
    cfy.install(path, "far")
    domain = clean_host.domain("on-far")
    assert domain.isActive() and protocol in domain.XMLDesc()
    cfy.uninstall("far")
