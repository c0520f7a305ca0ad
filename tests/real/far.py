"""A hypervisor on another host, as the tests see it: by ssh, with no code of the product."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real import sshd


@dataclass
class Far:
    """The other host, looked at through ssh with no code of the product."""

    server: sshd.Server

    @property
    def uri(self) -> str:
        return f"qemu+ssh://root@{self.server.address}:{sshd.PORT}/system?keyfile={self.server.key}"

    def login(self) -> list[str]:
        return ["ssh", "-i", str(self.server.key), "-p", str(sshd.PORT), "-o", "BatchMode=yes",
                f"root@{self.server.address}"]  # fmt: skip

    def sh(self, command: str) -> str:
        done = subprocess.run([*self.login(), command], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def everything(self) -> set[str]:
        """What a domain, network or pool may leave behind."""
        listing = " && ".join(f"virsh -q {kind} --all --name" for kind in ("list", "net-list", "pool-list"))
        # The log of QEMU itself is libvirt's.
        files = "find /var/lib/libvirt/{images,qemu/nvram}; ls /var/log/libvirt/qemu | grep console; true"
        return set(self.sh(f"{listing}; ls /sys/class/net; {files}").split())

    def sha256(self, path: str) -> str:
        return self.sh(f"sha256sum {shlex.quote(path)}").split()[0]

    def content(self, path: str) -> str:
        raw = f"/var/lib/libvirt/{Path(path).name}.content"
        self.sh(f"qemu-img convert -U -O raw {shlex.quote(path)} {raw}")
        found = self.sha256(raw)
        self.sh(f"rm {raw}")
        return found

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Have the cable out at the end, and in again after what is done inside."""
        try:
            yield
        finally:
            self.cable("up")

    def cable(self, state: str) -> None:
        route = subprocess.run(["ip", "-br", "address"], capture_output=True, text=True, check=True).stdout
        name = next(line.split("@")[0] for line in route.splitlines() if line.startswith("lab-"))
        subprocess.run(["ip", "link", "set", name, state], check=True)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """The other host, known to this one's ssh; it must be another."""
    given = os.environ.get("CLOUDIFY_LIBVIRT_FAR")
    if not given:
        pytest.skip("needs a second host: run scripts/test, or see above")
    directory = Path(given)
    server = sshd.Server(directory, tmp_path_factory.mktemp("far"), (directory / "address").read_text())
    server.give_ssh()
    server.trusts(directory / "host")
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{server.wrapper}:{path}"
    found = Far(server)
    assert found.sh("hostname").strip() != os.environ["CLOUDIFY_LIBVIRT_LAB"]
    yield found
    os.environ["PATH"] = path


@pytest.fixture
def clean_far(far: Far) -> Iterator[Far]:
    before = far.everything()
    yield far
    assert far.everything() == before
