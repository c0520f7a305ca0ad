"""A hypervisor over TLS, with an authority of our own: who is trusted, and what is said where nobody is."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudify_libvirt import pool_tasks
from cloudify_libvirt.core.errors import ConnectFailed, InvalidSpec
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.update.rows import How
from cloudify_libvirt.core.update.table import how
from tests.driver.conftest import Node
from tests.real import daemon
from tests.real.conftest import Cfy, Host, Result, virsh
from tests.real.nodes import blueprint, empty_domain

HERE = "127.0.0.1"
PKIPATH = "CLOUDIFY_LIBVIRT_URI_OPTIONS"
CONF = """{before}
listen_tls = 1
listen_tcp = 0
listen_addr = "{address}"
tls_port = "{port}"
auth_tls = "none"
ca_file = "{own}/cacert.pem"
cert_file = "{own}/servercert.pem"
key_file = "{own}/serverkey.pem"
"""


def certtool(*words: object) -> None:
    subprocess.run(["certtool", *map(str, words)], check=True, capture_output=True)


def new_key(path: Path) -> Path:
    certtool("--generate-privkey", "--key-type=rsa", "--bits=2048", "--outfile", path)
    return path


@dataclass
class Authority:
    """One that signs certificates; its own directory has all of them."""

    place: Path

    @classmethod
    def new(cls, place: Path) -> Authority:
        place.mkdir()
        (place / "template").write_text(f"cn = authority {place.name}\nca\ncert_signing_key\nexpiration_days = 3\n")
        certtool("--generate-self-signed", "--load-privkey", new_key(place / "cakey.pem"),
                 "--template", place / "template", "--outfile", place / "cacert.pem")  # fmt: skip
        return cls(place)

    def sign(self, kind: str, more: str = "") -> None:
        words = f"cn = a {kind}\ntls_www_{kind}\nencryption_key\nsigning_key\nexpiration_days = 3\n{more}\n"
        (self.place / "template").write_text(words)
        certtool("--generate-certificate", "--load-privkey", new_key(self.place / f"{kind}key.pem"),
                 "--load-ca-certificate", self.place / "cacert.pem", "--load-ca-privkey", self.place / "cakey.pem",
                 "--template", self.place / "template", "--outfile", self.place / f"{kind}cert.pem")  # fmt: skip


@dataclass
class Server:
    """The lab's libvirtd while it listens, and what clients of it may have in their files."""

    place: Path
    port: int

    def uri(self, files: str, host: str = HERE) -> str:
        return f"qemu+tls://{host}:{self.port}/system?pkipath={self.place / files}"

    def give(self, name: str, trusted: tuple[str, ...], own: str = "") -> None:
        """Make a directory of a client: whom it trusts, and who signed its own certificate."""
        files = self.place / name
        files.mkdir()
        (files / "cacert.pem").write_text("".join((self.place / one / "cacert.pem").read_text() for one in trusted))
        for one in ("clientcert.pem", "clientkey.pem") if own else ():
            shutil.copy(self.place / own / one, files)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("pki")
    ours, others = Authority.new(place / "ours"), Authority.new(place / "others")
    ours.sign("server", f"ip_address = {HERE}")
    for one in (ours, others):
        one.sign("client")
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = int(free.getsockname()[1])
    found = Server(place, port)
    found.give("right", ("ours",), "ours")
    found.give("wrong", ("others",), "others")
    found.give("another", ("others",), "ours")
    found.give("unsigned", ("ours", "others"), "others")
    found.give("none", ("ours",))
    before = Path("/etc/libvirt/libvirtd.conf").read_text()
    conf = place / "libvirtd.conf"
    conf.write_text(CONF.format(before=before, address=HERE, port=port, own=ours.place))
    daemon.stop()
    words = ["/usr/sbin/libvirtd", "--listen", "--config", str(conf), "--pid-file", str(daemon.PID_FILE)]
    process = subprocess.Popen(words)
    try:
        deadline = time.monotonic() + 90
        while not daemon.answers():
            assert process.poll() is None and time.monotonic() < deadline, "libvirtd does not listen"
            time.sleep(0.1)
        yield found
    finally:
        if process.poll() is None:
            daemon.stop()
        process.wait(60)
        daemon.PID_FILE.unlink(missing_ok=True)
        daemon.start()


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's, for files that are not where libvirt looks by itself."""
    monkeypatch.setenv(PKIPATH, "pkipath")


def test_a_machine_over_tls(server: Server, leave: None, cfy: Cfy, clean_host: Host) -> None:
    session = connect(server.uri("right"))
    assert session.alive and not session.is_local and session.driver == "qemu"
    assert session.connection.isEncrypted() and session.connection.isSecure()
    said = install(cfy, server.uri("right"))
    try:
        assert said.code == 0, said.output[-3000:]
        assert clean_host.domain("far").isActive() and "far" in {one.name() for one in session.all_domains()}
    finally:
        cfy.uninstall("far")


def install(cfy: Cfy, uri: str) -> Result:
    machine = empty_domain(name="far")
    machine["properties"]["libvirt_auth"] = uri
    cfy.environment[PKIPATH] = "pkipath"
    path = blueprint(cfy.directory, "far", vm=machine)
    return cfy("install", path, "-b", "far", "--task-retries", "0", check=False, timeout_s=600)


def test_the_version_of_nfs_changes_in_a_pool_of_a_remote_host(server: Server, leave: None) -> None:
    """Which commands that host has nobody can tell from here; that no server is there shows at the pool's start."""
    source = {"hosts": ["10.0.0.1"], "dir": "/images", "protocol_version": "4.1"}
    params = {"name": "farnfs", "type": "netfs", "source": source, "autostart": False}
    node = Node(name="pool", params=params, properties={"libvirt_auth": server.uri("right")}, deployment="far")
    node.runtime["stopped"] = True
    node.run(pool_tasks.create)
    try:
        uuid = virsh("pool-uuid", "farnfs")
        assert node.run(pool_tasks.check_drift) is None
        node.params["source"] = {**source, "protocol_version": "4.2"}
        (found,) = node.run(pool_tasks.check_drift)
        row = how("pool", found["field"], active=True)
        assert (row.field, row.how, found["where"]) == ("source.protocol*", How.RESTART, "config")
        node.run(pool_tasks.update)
        assert "<protocol ver='4.2'/>" in virsh("pool-dumpxml", "farnfs") and virsh("pool-uuid", "farnfs") == uuid
        assert node.run(pool_tasks.check_drift) is None
    finally:
        node.run(pool_tasks.delete)


REFUSED = {
    # Somebody else's host, or somebody between us and it.
    "wrong": (HERE, "Failed to verify peer's certificate", "must be the authority that signed the host's"),
    "right": ("localhost", "Failed to verify peer's certificate", "by a name that is in its certificate"),
    "another": (HERE, "failed validation against", "clientcert.pem signed by the authority in cacert.pem"),
    "unsigned": (HERE, "Unable to read TLS confirmation", "the authority that the host trusts"),
    "none": (HERE, "Unable to read TLS confirmation", "the authority that the host trusts"),
}


@pytest.mark.parametrize("files", REFUSED)
def test_who_is_not_trusted_is_refused_with_what_to_do(files: str, server: Server, leave: None) -> None:
    host, reason, remedy = REFUSED[files]
    with pytest.raises(ConnectFailed) as failed:
        connect(server.uri(files, host))
    assert reason in failed.value.reason and remedy in failed.value.remedy
    # It will be no other tomorrow; the last could also be a daemon that has just gone away.
    assert failed.value.retryable == ("confirmation" in reason)


def test_a_blueprint_hears_that_its_host_is_not_trusted(server: Server, cfy: Cfy, clean_host: Host) -> None:
    said = install(cfy, server.uri("wrong"))
    assert said.code == 1 and "Traceback" not in said.output, said.output[-3000:]
    assert said.lines("Task failed", "Failed to verify peer's certificate", "must be the authority that signed")
    cfy.uninstall("far")


def test_a_blueprint_does_not_choose_whom_this_machine_trusts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PKIPATH, raising=False)
    for more in ("", "&no_verify=1"):
        with pytest.raises(InvalidSpec, match=r"authority that certificates are checked with|turns the check"):
            connect(server.uri("right") + more)
