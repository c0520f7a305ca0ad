"""A guest's console log goes with the guest, with the parts that virtlogd put aside when it was full."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.host.console import remove_logs
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.uri import ALLOWED_VARIABLE
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, QEMU, Host

NAMES = ("a.log", "a.log.0", "a.log.1", "a.log.12", "a.log.old", "a.log.1.gz", "ab.log.0")


@pytest.mark.parametrize("far", [False, True])
def test_earlier_parts_go_too_and_nothing_else(far: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper, uri, place = tmp_path / "helper", QEMU, IMAGES / "logs"
    if far:
        monkeypatch.setenv(ALLOWED_VARIABLE, "command")
        helper.write_text("#!/bin/sh\nexec virt-ssh-helper qemu:///system\n")
        helper.chmod(0o755)
        uri = f"qemu+ext:///system?command={helper}"
    place.mkdir()
    try:
        for name in NAMES:
            (place / name).write_text("said")
        session = connect(uri)
        assert session.is_local is not far
        assert remove_logs(session, [str(place / "a.log"), "", str(place / "none.log")], "") == []
        assert {path.name for path in place.iterdir()} == {"a.log.old", "a.log.1.gz", "ab.log.0"}
    finally:
        shutil.rmtree(place)


def test_uninstall_takes_them_along(clean_host: Host) -> None:
    node = Node(name="talk", params={"name": "talk", "memory": "64 MiB", "wait_for_ip": False, "shutdown_timeout_s": 1},
                properties={"libvirt_auth": QEMU}, deployment="talk")  # fmt: skip
    for operation in (domain_tasks.create, domain_tasks.configure, domain_tasks.start):
        node.run(operation)
    log = Path(node.runtime["console_log"])
    log.with_name(f"{log.name}.0").write_text("earlier")
    assert log.exists()
    for operation in (domain_tasks.stop, domain_tasks.delete):
        node.run(operation)
    assert not [path for path in log.parent.iterdir() if path.name.startswith(log.name)]
