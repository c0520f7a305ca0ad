"""A full Debian with systemd and cloud-init: what the small guest shows must hold for real images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.conftest import BLUEPRINTS, Cfy, Host, guest, ping_agent, public_key, ssh


@pytest.fixture(scope="session")
def debian() -> Path:
    """A Debian 12 cloud image, built from packages."""
    return guest("debian")


@pytest.mark.slow
def test_a_debian_cloud_image(cfy: Cfy, clean_host: Host, debian: Path, key: Path) -> None:
    inputs = {"image": str(debian), "ssh_public_key": public_key(key), "ssh_user": "debian", "memory": "768 MiB"}
    cfy("install", BLUEPRINTS / "hello.yaml", "-b", "debian", "-i", cfy.inputs(**inputs), timeout_s=1200)
    address = str(cfy.outputs("debian")["address"])
    said = ssh(key, address, "hostname; id -un; cloud-init status --wait", user="debian", wait_s=300)
    assert said.split()[:2] == ["hello", "debian"]
    assert "status: done" in said
    assert ssh(key, address, "sudo -n id -u; systemctl is-active ssh", user="debian").split() == ["0", "active"]
    ping_agent("hello")
    cfy.uninstall("debian")
