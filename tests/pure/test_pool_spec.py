"""Pools that cannot be, and how the answer reads; credentials that nothing shows."""

from __future__ import annotations

import base64
from typing import Any

import goldens
import pytest

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec import PoolFacts, parse_spec, template_variables
from cloudify_libvirt.core.spec.pool_source import KINDS

IQN = "iqn.2024-01.org.example:disks"
ISCSI = {"hosts": ["san"], "target": IQN}
DIRECT = {**ISCSI, "initiator": "iqn.2024-01.org.example:me"}
KEY = base64.b64encode(b"\x00\xff key").decode()


def parse(**params: Any) -> Any:
    return parse_spec("pool", {"name": "p", **params}, node="web", extra=False)


def refused(**params: Any) -> str:
    with pytest.raises(InvalidSpec) as caught:
        parse(**params)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("lvm", "logical"), ("nfs", "netfs"), ("ceph", "rbd"), ("directory", "dir"), ("multipath", "mpath"),
     ("iscsi_direct", "iscsi-direct"), ("glusterfs", "gluster"), ("logicl", "logical"), ("DIR", "dir")],
)  # fmt: skip
def test_an_unknown_type_names_the_nearest_right_one(wrong: str, right: str) -> None:
    said = refused(type=wrong)
    assert said.startswith("cannot read params.type of node web: must be one of dir, fs, netfs, ")
    assert said.endswith(f"not '{wrong}'. Did you mean '{right}'?")


def test_a_type_that_is_like_none() -> None:
    assert "must be one of dir" in refused(type="qqqq") and "Did you mean" not in refused(type="qqqq")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"source": {"devices": "/dev/sdb"}}, "source.devices of node web: a pool of type dir has no such source"),
        ({"type": "fs", "source": {"dir": "/x", "format": "ext4"}}, "did you mean source.devices?"),
        ({"type": "iscsi", "source": {"hosts": "san", "devices": "/dev/sdb"}}, "did you mean source.target?"),
        ({"type": "rbd", "source": {"hosts": "c", "dir": "x"}}, "did you mean source.name?"),
        ({"type": "mpath", "source": {"name": "x"}}, "it takes no source"),
        ({"type": "fs"}, "params.source.devices of node web: a pool of type fs needs it"),
        ({"type": "netfs", "source": {"dir": "/x"}}, "params.source.hosts of node web: a pool of type netfs needs it"),
        ({"type": "iscsi", "source": {"hosts": "san"}}, "params.source.target of node web"),
        ({"type": "iscsi-direct", "source": ISCSI}, "params.source.initiator of node web"),
        ({"type": "gluster", "source": {"hosts": "g"}}, "params.source.name of node web"),
        ({"type": "scsi"}, "params.source.adapter of node web"),
        ({"type": "disk", "source": {"devices": ["/dev/a", "/dev/b"]}}, "a pool of type disk has one device"),
        ({"type": "gluster", "source": {"hosts": ["a", "b"], "name": "v"}}, "a pool of type gluster has one server"),
        ({"type": "fs", "source": {"devices": "/dev/a", "format": "gpt"}}, "is one of auto, ext2, ext3, ext4"),
        ({"type": "netfs", "source": {"hosts": "a", "dir": "vol"}}, "an NFS server exports an absolute path"),
        ({"type": "netfs", "source": {"hosts": "a", "dir": "v", "format": "cifs", "protocol_version": 3}}, "only NFS"),
        ({"type": "iscsi", "source": {**ISCSI, "target": "san1"}}, "must be an iSCSI name, as in iqn."),
        ({"type": "rbd", "source": {"hosts": "a b", "name": "x"}}, "must be a host name or an IP address"),
        ({"type": "rbd", "source": {"hosts": "a:99999", "name": "x"}}, "a port is a number from 1 to 65535"),
        ({"type": "rbd", "source": {"hosts": [{"host": "a"}], "name": "x"}}, "params.source.hosts[0].host"),
        ({"type": "fs", "source": {"devices": "sdb"}}, "must be an absolute path"),
        ({"type": "fs", "source": {"device": "/dev/sdb"}}, "Did you mean 'devices'?"),
        ({"type": "scsi", "source": {"adapter": {}}}, "an adapter needs name"),
        ({"type": "scsi", "source": {"adapter": {"name": "host1", "wwnn": "2" * 16}}}, "Give one kind"),
        ({"type": "scsi", "source": {"adapter": {"wwnn": "2", "wwpn": "1" * 16}}}, "16 hexadecimal digits"),
        ({"type": "logical", "path": "/srv"}, "a pool of type logical has no directory of yours"),
        ({"type": "gluster", "source": {"hosts": "a", "name": "v"}, "path": "/srv"}, "has no directory of yours"),
        ({"type": "disk", "source": {"devices": "/dev/a"}, "mode": "0700"}, "only pools of types dir, fs and netfs"),
        ({"type": "mpath", "owner": 0}, "params.owner of node web: only pools of types dir"),
        ({"build": "overwrite"}, "overwrite is for pools that are formatted (fs, logical, disk), not for type dir"),
        ({"build": "always"}, "params.build of node web: must be one of 'auto', 'never' or 'overwrite'"),
        ({"type": "fs", "source": {"devices": "/dev/a"}, "build": "overwrite"}, "say which file system"),
        ({"delete_source": True}, "libvirt can remove the source of pools of type logical, disk only"),
        ({"auth": {"username": "a", "secret": "s"}}, "a pool of type dir has no credentials"),
        ({"type": "iscsi", "source": ISCSI, "auth": {"username": "a"}}, "auth needs password, or the secret"),
        ({"type": "iscsi", "source": ISCSI, "auth": {"password": "x"}}, "auth.username of node web: is required"),
        ({"type": "iscsi", "source": ISCSI, "auth": {"type": "ceph", "username": "a", "secret": "s"}}, "it is chap"),
        ({"type": "iscsi", "source": {**ISCSI, "auth": {"username": "a"}}}, "credentials stand in params.auth"),
    ],
)  # fmt: skip
def test_wrong_pools(params: dict[str, Any], words: str) -> None:
    assert words in refused(**params)


@pytest.mark.parametrize(
    "auth",
    [
        {"username": "a", "password": "hunter2", "secret": "s"},
        {"username": "a", "pasword": "hunter2"},
        {"username": ["hunter2"], "password": "x"},
        {"username": "a", "password": ["hunter2"]},
        {"username": "a", "password": "hunter2\x00"},
        "hunter2",
    ],
)
@pytest.mark.parametrize(("type_", "source"), [("iscsi-direct", DIRECT), ("rbd", {"hosts": "c", "name": "x"})])
def test_wrong_credentials_are_not_shown(type_: str, source: Any, auth: Any) -> None:
    assert "hunter2" not in refused(type=type_, source=source, auth=auth)


def test_a_ceph_key_is_base64() -> None:
    ceph = {"type": "rbd", "source": {"hosts": "c", "name": "x"}}
    said = refused(**ceph, auth={"username": "a", "password": "hunter2!"})
    assert "params.auth.password" in said and "base64" in said and "hunter2" not in said
    assert parse(**ceph, auth={"username": "a", "password": KEY}).secret_value == b"\x00\xff key"


def test_credentials_reach_neither_templates_nor_representations() -> None:
    spec = parse(type="iscsi-direct", source=DIRECT, auth={"username": "a", "password": "hunter2"})
    assert spec.secret_value == b"hunter2"
    variables = template_variables(spec, PoolFacts("u", "s"))
    assert "hunter2" not in repr(spec) + repr(variables) + str(variables)
    assert variables["auth"] == {"type": "chap", "username": "a", "by": "uuid", "secret": "s"}


@pytest.mark.parametrize(
    ("written", "host"),
    [("a", ("a", None)), ("a:1", ("a", 1)), ("fd00::1", ("fd00::1", None)), ("[fd00::1]:7", ("fd00::1", 7)),
     ("[fd00::1]", ("fd00::1", None)), ("10.0.0.1:3260", ("10.0.0.1", 3260)), ({"name": "a", "port": "9"}, ("a", 9))],
)  # fmt: skip
def test_hosts(written: Any, host: tuple[str, int | None]) -> None:
    (found,) = parse(type="rbd", source={"hosts": [written], "name": "x"}).source.hosts
    assert (found.name, found.port) == host


def test_every_type_has_a_golden_document() -> None:
    assert {case.spec().type for case in goldens.cases("pool")} == set(KINDS)


def test_the_page_shows_every_type() -> None:
    page = (goldens.DATA.parents[1] / "docs/pools.md").read_text(encoding="utf-8")
    assert [type_ for type_ in KINDS if f"## {type_}\n" not in page] == []
