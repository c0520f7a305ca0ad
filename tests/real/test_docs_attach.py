"""The example of the page on workflows, as it stands there: the guest has the disk that was attached."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import BLUEPRINTS, IMAGES, ROOT, Cfy, Host, public_key, ssh, virsh


def example(operation: str) -> list[str]:
    """The words of the command with that operation, for the deployment hello."""
    text = (ROOT / "docs/workflows.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [one for block in blocks for one in re.findall(r"^cfy .*(?:\n .*)*", block, re.MULTILINE)]
    (found,) = [one for one in commands if f"cloudify.interfaces.devices.{operation}" in one]
    return ["hello" if word == "ID" else word for word in shlex.split(found)][1:]


@pytest.fixture
def data(host: Host) -> Iterator[Path]:
    """Pool ``default`` with the volume ``data``, as the page takes them for granted."""
    made = "default" not in host.pools()
    IMAGES.mkdir(parents=True, exist_ok=True)
    if made:
        virsh("pool-create-as", "default", "dir", "--target", str(IMAGES))
    virsh("vol-create-as", "default", "data", "64M", "--format", "qcow2")
    yield IMAGES / "data"
    virsh("vol-delete", "data", "default")
    if made:
        virsh("pool-destroy", "default")


def seen(key: Path, address: str) -> str:
    return ssh(key, address, "cat /sys/block/vdb/size 2>/dev/null || echo none")


def test_attached_disk_is_seen_by_the_guest(cfy: Cfy, data: Path, tiny: Path, key: Path) -> None:
    cfy.install(BLUEPRINTS / "hello.yaml", "hello", image=str(tiny), ssh_public_key=public_key(key),
                ssh_user="root", memory="128 MiB")  # fmt: skip
    address = str(cfy.outputs("hello")["address"])
    assert seen(key, address) == "none"
    cfy(*example("attach"))
    deadline = time.monotonic() + 120
    while seen(key, address) != str(64 * 2048) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert seen(key, address) == str(64 * 2048), "the guest sees the disk while it runs"
    cfy(*example("detach"))
    assert seen(key, address) == "none"
    cfy.uninstall("hello")
    assert subprocess.run(["qemu-img", "check", "-q", data], check=False).returncode == 0, (
        "the disk is not ours to remove"
    )
