"""An ssh server of the tests' own, on the lab's loopback: the lab's hypervisor as a remote one."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PORT = 2222


def new_key(path: Path) -> Path:
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path


@dataclass
class Server:
    """``home`` is that of the client."""

    directory: Path
    home: Path

    @property
    def key(self) -> Path:
        return self.directory / "login"

    @property
    def uri(self) -> str:
        return f"qemu+ssh://root@127.0.0.1:{PORT}/system?keyfile={self.key}&socket=/run/libvirt/libvirt-sock"

    @property
    def wrapper(self) -> Path:
        """ssh, with the client's own configuration: OpenSSH looks into the passwd file for its user's home."""
        return self.home / "bin"

    def trusts(self, host_key: Path) -> None:
        algorithm, key, _ = host_key.with_suffix(".pub").read_text().split()
        self.known.write_text(f"[127.0.0.1]:{PORT} {algorithm} {key}\n")

    @property
    def known(self) -> Path:
        return self.home / ".ssh/known_hosts"


@contextmanager
def running(directory: Path, home: Path) -> Iterator[Server]:
    """Serve, and give the client's home an ssh that looks at its own known_hosts."""
    for path in (directory, home / ".ssh", home / "bin"):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = Server(directory, home)
    host_key, login = new_key(directory / "host"), new_key(server.key)
    authorized = directory / "authorized"
    authorized.write_text(login.with_suffix(".pub").read_text())
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (server.wrapper / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -o UserKnownHostsFile={server.known} "$@"\n')
    (server.wrapper / "ssh").chmod(0o755)
    options = {
        "ListenAddress": "127.0.0.1", "Port": PORT, "HostKey": host_key, "AuthorizedKeysFile": authorized,
        "StrictModes": "no", "UsePAM": "no", "PermitRootLogin": "prohibit-password", "PidFile": "none",
        "MaxStartups": "50", "MaxSessions": "50",
    }  # fmt: skip
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    log = (directory / "log").open("w")
    process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *given], stderr=log)
    try:
        _wait_for_port(process)
        yield server
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _wait_for_port(process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        assert process.poll() is None, "sshd ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PORT)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")
