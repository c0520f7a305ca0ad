"""An ssh server of the tests' own: the lab's hypervisor as a remote one, or another lab's.

In another lab: python -m tests.real.sshd DIRECTORY ADDRESS
"""

from __future__ import annotations

import socket
import subprocess
import sys
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
    address: str = "127.0.0.1"

    @property
    def key(self) -> Path:
        return self.directory / "login"

    @property
    def uri(self) -> str:
        return f"qemu+ssh://root@{self.address}:{PORT}/system?keyfile={self.key}&socket=/run/libvirt/libvirt-sock"

    @property
    def wrapper(self) -> Path:
        """ssh, with the client's own configuration: OpenSSH looks into the passwd file for its user's home."""
        return self.home / "bin"

    def trusts(self, host_key: Path) -> None:
        algorithm, key, _ = host_key.with_suffix(".pub").read_text().split()
        self.known.write_text(f"[{self.address}]:{PORT} {algorithm} {key}\n")

    @property
    def known(self) -> Path:
        return self.home / ".ssh/known_hosts"

    def give_ssh(self) -> None:
        """Give the client's home an ssh that looks at its own known_hosts."""
        for path in (self.home / ".ssh", self.wrapper):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.wrapper / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -o UserKnownHostsFile={self.known} "$@"\n')
        (self.wrapper / "ssh").chmod(0o755)


@contextmanager
def running(directory: Path, home: Path) -> Iterator[Server]:
    """Serve on the loopback, for a client with that home."""
    server = Server(directory, home)
    server.give_ssh()
    with serving(directory, server.address):
        yield server


@contextmanager
def serving(directory: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    host_key, login = new_key(directory / "host"), new_key(directory / "login")
    authorized = directory / "authorized"
    authorized.write_text(login.with_suffix(".pub").read_text())
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    options = {
        "ListenAddress": address, "Port": PORT, "HostKey": host_key, "AuthorizedKeysFile": authorized,
        "StrictModes": "no", "UsePAM": "no", "PermitRootLogin": "prohibit-password", "PidFile": "none",
        "MaxStartups": "50", "MaxSessions": "50",
    }  # fmt: skip
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    log = (directory / "log").open("w")
    process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *given], stderr=log)
    try:
        _wait_for_port(process, address)
        (directory / "address").write_text(address)
        yield process
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _wait_for_port(process: subprocess.Popen[bytes], address: str) -> None:
    for _ in range(1200):
        assert process.poll() is None, "sshd ended"
        with socket.socket() as probe:
            if probe.connect_ex((address, PORT)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")


if __name__ == "__main__":
    with serving(Path(sys.argv[1]), sys.argv[2]) as process:
        # The host's end is its end.
        process.wait()
