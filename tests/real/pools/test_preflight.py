"""Storage pools that this host cannot have: said before anything is made, with what mends it."""

from __future__ import annotations

from typing import Any

import pytest
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import pool_tasks
from cloudify_libvirt.core.storage import pool_preflight
from tests.real.pools.storage import INITIATOR, TARGET, pool_node, pools

HOST = {"hosts": ["127.0.0.1"]}


@pytest.mark.parametrize(
    ("type_", "params", "words"),
    [
        ("zfs", {}, ("no storage backend for pools of type zfs", "apt-get install libvirt-daemon-driver-storage-zfs")),
        ("iscsi", {"source": {**HOST, "target": TARGET}}, ("command iscsiadm", "apt-get install open-iscsi")),
        ("mpath", {}, ("command multipath", "apt-get install multipath-tools")),
        ("netfs", {"source": {**HOST, "dir": "/srv"}}, ("command mount.nfs", "apt-get install nfs-common")),
        ("netfs", {"source": {**HOST, "dir": "srv", "format": "cifs"}}, ("mount.cifs", "apt-get install cifs-utils")),
        ("fs", {"source": {"devices": ["/dev/null0"]}}, ("device /dev/null0", "there is no such device")),
        ("fs", {"source": {"devices": ["/dev/null"]}}, ("device /dev/null", "it is not a block device", "losetup")),
        ("fs", {"source": {"devices": ["/dev/loop0"], "format": "vmfs"}}, ("cannot mount vmfs", "modprobe vmfs")),
        ("scsi", {"source": {"adapter": "host999"}}, ("there is no SCSI host host999", "params.source.adapter")),
        ("scsi", {"source": {"adapter": {"parent": "scsi_host999", "wwnn": "2" * 16, "wwpn": "1" * 16}}},
         ("there is no fibre channel adapter", "host999")),
        ("iscsi-direct",
         {"source": {**HOST, "target": TARGET, "initiator": INITIATOR}, "auth": {"username": "a", "secret": "unknown"}},
         ("secret for unknown", "libvirt has none", "auth.password")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("operation", ["validate", "create"])
def test_what_the_host_lacks(
    type_: str, params: dict[str, Any], words: tuple[str, ...], operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if type_ in ("iscsi", "mpath"):
        # Also where somebody has installed them.
        monkeypatch.setattr(pool_preflight, "_PATH", "/nowhere")
    node = pool_node("lacking", type_, **params)
    before = pools()
    with pytest.raises(NonRecoverableError) as caught:
        node.run(getattr(pool_tasks, operation))
    assert [word for word in ("pool 'lacking' on qemu:///system", *words) if word not in str(caught.value)] == []
    assert pools() == before and not node.runtime.get("resource_id")
