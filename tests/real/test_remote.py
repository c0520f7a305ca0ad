"""A hypervisor over ssh: what works, and what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import sshd
from tests.real.conftest import BLUEPRINTS, Cfy, Host, public_key, ssh
from tests.real.nodes import blueprint, empty_domain

ONE_TRY = ("--task-retries", "0")


@pytest.fixture
def server(cfy: Cfy, tmp_path: Path) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path / "sshd", cfy.directory) as server:
        cfy.environment["PATH"] = f"{server.wrapper}:{cfy.environment['PATH']}"
        yield server


def attempt(cfy: Cfy, uri: str) -> str:
    """Install a machine there, which must fail; return what was said."""
    machine = empty_domain(name="far")
    machine["properties"]["libvirt_auth"] = uri
    path = blueprint(cfy.directory, "far", vm=machine)
    result = cfy("install", path, "-b", "far", *ONE_TRY, check=False, timeout_s=600)
    assert result.code == 1 and "Traceback" not in result.output, result.output[-3000:]
    return "\n".join(result.lines("Task failed"))


def test_a_machine_over_ssh(cfy: Cfy, server: sshd.Server, clean_host: Host, tiny: Path, key: Path) -> None:
    """Network, pool, overlay, seed, address and login, as with a local URI; nothing stays, no console log either."""
    server.trusts(server.directory / "host")
    uploaded = {"image": str(tiny), "ssh_public_key": public_key(key), "ssh_user": "root"}
    values = {"libvirt_uri": server.uri, "machines": 1, "disk": "", "memory": "256 MiB", **uploaded}
    try:
        begun = cfy.install(BLUEPRINTS / "cluster.yaml", "far", **values)
        assert "Traceback" not in begun.output
        address = cfy.outputs("far")["addresses"][0]
        assert ssh(key, address, "hostname") == "node-1"
        messages = [
            line for line in begun.output.splitlines() if "root@127.0.0.1" in line and "libvirt_auth" not in line
        ]
        assert messages == []
        assert list(Path("/var/log/libvirt/qemu").glob("*-console.log"))
    finally:
        cfy.uninstall("far", check=False)


def test_an_unknown_or_another_host_key_is_refused(cfy: Cfy, server: sshd.Server, clean_host: Host) -> None:
    server.known.write_text("")
    assert "Host key verification failed" in attempt(cfy, server.uri)
    server.trusts(sshd.new_key(server.directory / "another"))
    said = attempt(cfy, server.uri)
    assert "into ~/.ssh/known_hosts" in said and "root@" not in said
    assert "Accepted" not in (server.directory / "log").read_text()
    server.trusts(server.directory / "host")
    cfy.uninstall("far")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("&no_verify=1", "turns the check of host key or certificate off"),
        ("&command=/tmp/evil", "names a program that this machine runs"),
        ("&known_hosts=/tmp/mine", "host keys are checked with"),
    ],
)
def test_what_a_blueprint_must_not_turn_off(cfy: Cfy, server: sshd.Server, more: str, reason: str) -> None:
    """Though the key is the right one."""
    server.trusts(server.directory / "host")
    said = attempt(cfy, server.uri + more)
    assert reason in said and "CLOUDIFY_LIBVIRT_URI_OPTIONS" in said
    assert "Accepted" not in (server.directory / "log").read_text()
