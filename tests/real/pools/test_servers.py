"""Storage pools of other hosts: Gluster by mount and by library, iSCSI with credentials that nobody sees."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import libvirt
import pytest
import yaml
from cloudify.exceptions import NonRecoverableError, RecoverableError

from cloudify_libvirt import pool_tasks
from cloudify_libvirt.core.pool import Pool
from tests.real.conftest import Cfy
from tests.real.nodes import blueprint, configured, node
from tests.real.pools.storage import (
    IMAGES,
    INITIATOR,
    QEMU,
    TARGET,
    install,
    pool_node,
    restart_libvirtd,
    secrets,
    uninstall,
)

PASSWORD = "correct-horse-1"


def here() -> str:
    return os.uname().nodename


def direct(port: int, **params: Any) -> Any:
    source = {"hosts": [f"127.0.0.1:{port}"], "target": TARGET, "initiator": INITIATOR}
    return pool_node("luns", "iscsi-direct", source=source, **params)


def test_netfs_with_gluster(gluster: str) -> None:
    node = pool_node("shared", "netfs", source={"hosts": [here()], "dir": gluster, "format": "glusterfs"})
    pool = install(node)
    assert f"{here()}:{gluster} {IMAGES}/shared fuse.glusterfs" in Path("/proc/mounts").read_text()
    volume = pool.createXML("<volume><name>data</name><capacity unit='MiB'>1</capacity></volume>")
    install(node, "create", "configure", "start")
    assert pool.listVolumes() == ["data"]
    volume.delete()
    uninstall(node)
    assert not (IMAGES / "shared").exists() and node.runtime == {"resource_id": None}


def test_gluster_by_its_library(gluster: str) -> None:
    node = pool_node("shared", "gluster", source={"hosts": here(), "name": gluster})
    pool = install(node)
    assert pool.isActive() and pool.info()[1] > 0
    assert node.runtime["path"] == ""
    uninstall(node)
    assert node.runtime == {"resource_id": None}


def test_iscsi_with_credentials(iscsi: int, caplog: pytest.LogCaptureFixture) -> None:
    node = direct(iscsi)
    before = secrets()
    with caplog.at_level(logging.DEBUG):
        node.run(pool_tasks.validate)
        node.run(pool_tasks.create, params={"auth": {"username": "alice", "password": PASSWORD}})
        pool = install(node, "configure", "start")
        assert sorted(pool.listVolumes()) == ["unit:0:0:0", "unit:0:0:1", "unit:0:0:2"]
        assert node.runtime["secret"] in secrets() - before
        seen = [repr(node.runtime), repr(node.stored), pool.XMLDesc(), caplog.text]
        assert [text for text in seen if PASSWORD in text] == []
        secret = libvirt.open(QEMU).secretLookupByUUIDString(node.runtime["secret"])
        with pytest.raises(libvirt.libvirtError, match="private"):
            secret.value()
        # Such a pool starts again without the password: the host has it.
        pool.destroy()
        install(node, "start")
        assert pool.isActive()
        uninstall(node)
    assert secrets() == before and node.runtime == {"resource_id": None}
    assert PASSWORD not in caplog.text


class Killed(BaseException):
    """Ends an operation where it stands."""


def test_killed_between_secret_and_pool(iscsi: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise Killed

    auth = {"auth": {"username": "alice", "password": PASSWORD}}
    for again in (False, True):
        made, before = direct(iscsi), secrets()
        with monkeypatch.context() as patch:
            patch.setattr(Pool, "define", killed)
            with pytest.raises(Killed):
                made.run(pool_tasks.create, params=auth)
        assert secrets() - before == {made.stored[-1]["secret"]}
        if again:
            made.run(pool_tasks.create, params=auth)
            assert len(install(made, "configure", "start").listVolumes()) == 3
        uninstall(made)
        assert secrets() == before


def test_a_pool_with_credentials_starts_with_the_host(iscsi: int) -> None:
    made = direct(iscsi, auth={"username": "alice", "password": PASSWORD})
    install(made)
    restart_libvirtd()
    connection = libvirt.open(QEMU)
    deadline = time.monotonic() + 90
    while not connection.storagePoolLookupByName("luns").isActive():
        assert time.monotonic() < deadline, "the pool does not start"
        time.sleep(0.1)
    install(made, "start")
    uninstall(made)
    assert made.runtime == {"resource_id": None}


def test_iscsi_by_cfy(iscsi: int, cfy: Cfy) -> None:
    pool = configured(
        node("pool", name="luns", type="iscsi-direct", source=direct(iscsi).params["source"]),
        params={"auth": {"username": "alice", "password": {"get_input": "password"}}},
    )
    path = blueprint(cfy.directory, "luns", luns=pool)
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**document, "inputs": {"password": {}}}))
    said = cfy.install(path, "luns", password=PASSWORD)
    assert PASSWORD not in said.output + repr(cfy.instances("luns"))
    assert len(libvirt.open(QEMU).storagePoolLookupByName("luns").listVolumes()) == 3
    assert PASSWORD not in cfy.uninstall("luns").output
    assert PASSWORD not in Path("/var/log/libvirt/libvirtd.log").read_text()


def test_iscsi_with_a_secret_of_somebody_else(iscsi: int) -> None:
    connection = libvirt.open(QEMU)
    secret = connection.secretDefineXML(
        "<secret ephemeral='yes' private='yes'><usage type='iscsi'><target>san-login</target></usage></secret>"
    )
    secret.setValue(PASSWORD.encode())
    for name in ("san-login", secret.UUIDString()):
        node = direct(iscsi, auth={"username": "alice", "secret": name})
        assert len(install(node).listVolumes()) == 3
        uninstall(node)
    assert secret.UUIDString() in secrets()
    secret.undefine()


def test_a_wrong_password_is_not_tried_again(iscsi: int) -> None:
    node = direct(iscsi, auth={"username": "alice", "password": "wrong-horse-22"})
    install(node, "validate", "create")
    with pytest.raises(NonRecoverableError, match="Authentication failure") as caught:
        node.run(pool_tasks.configure)
    assert "wrong-horse" not in str(caught.value)
    uninstall(node)


def test_a_server_that_does_not_answer_is_tried_again() -> None:
    node = direct(3270)
    install(node, "validate", "create")
    with pytest.raises(RecoverableError, match=r"params\.source\.hosts"):
        node.run(pool_tasks.configure)
    uninstall(node)
