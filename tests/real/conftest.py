"""Fixtures for tests on a real libvirt host: run them inside a lab, as scripts/test does.

scripts/lab up && scripts/lab exec .venv/bin/python -m pytest tests/real
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import libvirt
import pytest
import yaml

from tests.real.attempts import attempt, cache, foreign, shelf, web  # noqa: F401 - fixtures
from tests.real.far import clean_far, far  # noqa: F401 - fixtures
from tests.real.shelf import pools, raw_file  # noqa: F401 - fixtures

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv/bin/python"
BLUEPRINTS = ROOT / "blueprints"
IMAGES = Path("/var/lib/libvirt/images")
QEMU = "qemu:///system"
LXC = "lxc:///system"
SSH_OPTIONS = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
               "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]  # fmt: skip


@dataclass
class Result:
    """What a command said."""

    code: int
    output: str
    seconds: float

    def lines(self, *words: str) -> list[str]:
        """The lines that have all the words."""
        return [line for line in self.output.splitlines() if all(word in line for word in words)]


@dataclass
class Host:
    """The lab's libvirt, looked at with no code of the product."""

    connection: libvirt.virConnect = field(default_factory=lambda: libvirt.open(QEMU))
    containers: libvirt.virConnect = field(default_factory=lambda: libvirt.open(LXC))

    def domains(self) -> set[str]:
        both = [*self.connection.listAllDomains(), *self.containers.listAllDomains()]
        return {domain.name() for domain in both}

    def networks(self) -> set[str]:
        return {network.name() for network in self.connection.listAllNetworks()}

    def pools(self) -> set[str]:
        return {pool.name() for pool in self.connection.listAllStoragePools()}

    def files(self) -> set[str]:
        """Images, NVRAM, saved states: everything that a domain or pool may leave behind."""
        places = [IMAGES, Path("/var/lib/libvirt/qemu/nvram"), Path("/var/lib/libvirt/qemu/save")]
        logs = Path("/var/log/libvirt/qemu").glob("*-console.log")
        return {str(path) for place in places if place.exists() for path in place.rglob("*")} | set(map(str, logs))

    def everything(self) -> dict[str, set[str]]:
        return {
            "domains": self.domains(), "networks": self.networks(), "pools": self.pools(), "files": self.files(),
            "links": {link.name for link in Path("/sys/class/net").iterdir()},
        }  # fmt: skip

    def settled(self, wanted: dict[str, set[str]]) -> dict[str, set[str]]:
        """Everything, when it is as it should be, or has not become so: the kernel removes links a moment later."""
        deadline = time.monotonic() + 20
        while (found := self.everything()) != wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def domain(self, name: str) -> libvirt.virDomain:
        return self.connection.lookupByName(name)


@pytest.fixture(scope="session", autouse=True)
def inside_lab() -> None:
    if Path("/proc/sys/kernel/hostname").read_text().strip() != os.environ.get("CLOUDIFY_LIBVIRT_LAB"):
        pytest.exit("tests/real needs a private libvirt host: run scripts/test, or scripts/lab exec ... "
                    "with CLOUDIFY_LIBVIRT_LAB set to the lab's name", returncode=3)  # fmt: skip


def guest(kind: str) -> Path:
    built = subprocess.run([ROOT / "scripts/build-guest", kind], capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"build-guest {kind}: {built.stderr}"
    return Path(built.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def tiny() -> Path:
    """A small disk image that boots in seconds."""
    return guest("tiny")


@pytest.fixture(scope="session")
def container_root() -> Path:
    """A small root file system in a tar archive."""
    return guest("container")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ssh key made for this run."""
    path = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("prepared-home")
    environment = {**os.environ, "HOME": str(home), "PYTHONWARNINGS": "ignore"}
    subprocess.run([ROOT / ".venv/bin/cfy-libvirt", "local-setup"], env=environment, check=True, capture_output=True)
    return home


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def clean_host(host: Host) -> Iterator[Host]:
    """The host; after the test it must be as it was before."""
    before = host.everything()
    yield host
    assert host.settled(before) == before


class Cfy:
    """cfy in a home of its own."""

    def __init__(self, home: Path) -> None:
        # The engine leaves a directory behind for each script that it runs.
        (home / "scripts").mkdir(exist_ok=True)
        self.environment = {**os.environ, "HOME": str(home), "PYTHONWARNINGS": "ignore",
                            "XDG_STATE_HOME": str(home / "state"), "CFY_EXEC_TEMP": str(home / "scripts")}  # fmt: skip
        self.directory = home

    def __call__(self, *arguments: object, check: bool = True, timeout_s: float = 900) -> Result:
        begin = time.monotonic()
        done = subprocess.run(
            [ROOT / ".venv/bin/cfy", *map(str, arguments)], env=self.environment, cwd=ROOT, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s,
        )  # fmt: skip
        result = Result(done.returncode, done.stdout, time.monotonic() - begin)
        assert not check or result.code == 0, result.output[-6000:]
        return result

    def inputs(self, **values: object) -> Path:
        path = self.directory / "inputs.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def install(self, blueprint: Path, deployment: str, check: bool = True, **inputs: object) -> Result:
        return self("install", blueprint, "-b", deployment, "-i", self.inputs(**inputs), check=check)

    def uninstall(self, deployment: str, check: bool = True) -> Result:
        return self("uninstall", "-b", deployment, check=check)

    def outputs(self, deployment: str) -> dict[str, object]:
        text = self("deployments", "outputs", "-b", deployment).output
        found: dict[str, object] = json.loads(text[text.index("{") :])
        return found

    def instances(self, deployment: str) -> list[dict[str, object]]:
        text = self("node-instances", "-b", deployment).output
        found: list[dict[str, object]] = json.loads(text[text.index("[") :])
        return found

    def drift(self, deployment: str) -> tuple[int, list[dict[str, object]]]:
        """Ask cfy-libvirt what is not as declared: its exit code, and what it named."""
        done = subprocess.run(
            [ROOT / ".venv/bin/cfy-libvirt", "drift", deployment, "--json"], env=self.environment, cwd=ROOT,
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode in (0, 2), done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def cfy(prepared_home: Path, tmp_path: Path) -> Iterator[Cfy]:
    home = tmp_path / "home"
    shutil.copytree(prepared_home, home)
    tool = Cfy(home)
    yield tool
    # What a failed test left would fail the next ones, too.
    for deployment in (home / ".cloudify/profiles/local/deployments").glob("*"):
        tool.uninstall(deployment.name, check=False)


def assert_no_drift(cfy: Cfy, deployment: str) -> None:
    """Of what has just been installed nothing is drift, three times in a row."""
    assert [cfy.drift(deployment) for _ in range(3)] == [(0, [])] * 3


def public_key(key: Path) -> str:
    return key.with_suffix(".pub").read_text().strip()


def ssh(
    key: Path, address: str, command: str, user: str = "root", wait_s: float = 300, options: tuple[str, ...] = ()
) -> str:
    """Run a command in a guest; the port may open a moment after the address is known."""
    deadline = time.monotonic() + wait_s
    call = ["ssh", "-i", str(key), *SSH_OPTIONS, *options, f"{user}@{address}", command]
    while True:
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 255 or time.monotonic() > deadline:
            assert done.returncode == 0, f"ssh {user}@{address} {command}: {done.stderr}"
            return done.stdout.strip()
        time.sleep(0.3)


def ping_agent(name: str, wait_s: float = 300) -> None:
    """Wait until a guest's agent gives a sign of life."""
    deadline = time.monotonic() + wait_s
    call = ["virsh", "-q", "-c", QEMU, "qemu-agent-command", name, '{"execute": "guest-ping"}']
    while (done := subprocess.run(call, capture_output=True, text=True, check=False, timeout=600)).returncode:
        assert time.monotonic() < deadline, f"the agent of {name}: {done.stderr}"
        time.sleep(0.3)


def virsh(*arguments: str, uri: str = QEMU) -> str:
    done = subprocess.run(["virsh", "-q", "-c", uri, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"virsh {arguments}: {done.stderr}"
    return done.stdout
