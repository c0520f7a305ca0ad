"""The doctor on a host that is as bad as can be: another libvirtd in this lab, with mounts of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.real.attempts import Attempt, says, vm
from tests.real.conftest import QEMU, ROOT
from tests.real.test_doctor import Report, doctor, in_own_mounts, pwd_of

PARTS = ("network", "storage", "secret")
APPARMOR = "/sys/module/apparmor/parameters"


@dataclass
class BadHost:
    """A libvirtd that sees other files than this lab's; nobody else does."""

    directory: Path
    _daemon: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def settings(self) -> Path:
        return self.directory / "etc/qemu.conf"

    @property
    def drivers(self) -> Path:
        return self.directory / "drivers"

    @property
    def within(self) -> tuple[str, ...]:
        assert self._daemon is not None
        return ("nsenter", "--mount", f"--target={self._daemon.pid}", "--")

    def start(self) -> None:
        (installed,) = Path("/usr/lib").glob("*/libvirt/connection-driver")
        own = [f"mount -t tmpfs own {place}" for place in ("/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt")]
        over = {"etc": "/etc/libvirt", "drivers": installed, "meminfo": "/proc/meminfo"}
        over_all = [f"mount --bind {self.directory / name} {place}" for name, place in over.items()]
        kernel = ["mount -t tmpfs own /sys/module", f"mkdir -p {APPARMOR}", f"echo Y > {APPARMOR}/enabled"]
        command = in_own_mounts(*own, *over_all, *kernel)
        self._daemon = subprocess.Popen([*command, "/usr/sbin/libvirtd"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self._daemon.poll() is None and time.monotonic() < deadline, "libvirtd does not start"
            time.sleep(0.1)

    def _answers(self) -> bool:
        # Before its mounts are made this would ask the lab's.
        mine = subprocess.run([*self.within, "cmp", "-s", "/etc/libvirt/qemu.conf", self.settings], check=False)
        asked = [*self.within, "virsh", "-c", QEMU, "uri"]
        return mine.returncode == 0 and subprocess.run(asked, capture_output=True, check=False).returncode == 0

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(120)

    def get_drivers(self) -> None:
        (installed,) = Path("/usr/lib").glob("*/libvirt/connection-driver")
        for part in PARTS:
            shutil.copy2(installed / f"libvirt_driver_{part}.so", self.drivers)

    def doctor(self) -> Report:
        return doctor(within=self.within)


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[BadHost]:
    """Guests of root's that AppArmor does not confine, little memory, and nothing but the QEMU driver."""
    host = BadHost(tmp_path)
    host.settings.parent.mkdir()
    for path in Path("/etc/libvirt").glob("*.conf"):
        shutil.copy2(path, host.settings.parent)
    host.settings.write_text('user = "root"\ngroup = "root"\nsecurity_driver = "none"\n')
    host.drivers.mkdir()
    (qemu,) = Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so")
    shutil.copy2(qemu, host.drivers)
    little = re.sub(r"^(MemFree|Buffers|Cached):.*", r"\1: 102400 kB", Path("/proc/meminfo").read_text(), flags=re.M)
    (tmp_path / "meminfo").write_text(little)
    try:
        host.start()
        yield host
    finally:
        host.stop()


def test_a_bad_host(bad: BadHost) -> None:
    report = bad.doctor()
    assert report.code == 1
    assert report.bad() == {"drivers": "problem", "security": "warning", "memory": "warning"}
    missing = {one["looked_at"]: one for one in report.findings if one["check"] == "drivers"}
    assert set(missing) == {f"{part} driver" for part in PARTS}
    for part in PARTS:
        found = missing[f"{part} driver"]
        assert found["state"] == "problem" and found["why"] == f"no {part} without it"
        assert found["command"] == f"apt-get install libvirt-daemon-driver-{part} && systemctl restart libvirtd"
    memory = report.the("memory", "warning")
    assert memory["found"] == "300 MiB left" and memory["command"].startswith("virsh list")
    security = {one["looked_at"]: one for one in report.findings if one["check"] == "security"}
    says(security["guests' user"]["found"], "guests run as root")
    says(security["confinement"]["found"], "the kernel has AppArmor, and libvirt does not use it")
    says(security["confinement"]["command"], "apt-get install apparmor", "systemctl restart libvirtd")
    # What is advised mends it; a package is a file here, and the restart ours.
    advice, _, restart = security["guests' user"]["command"].partition(" && ")
    assert restart == "systemctl restart libvirtd"
    subprocess.run([*bad.within, "bash", "-c", advice], check=True)
    assert "root" not in bad.settings.read_text()
    bad.stop()
    bad.get_drivers()
    shutil.copy2("/proc/meminfo", bad.directory / "meminfo.new")
    (bad.directory / "meminfo.new").replace(bad.directory / "meminfo")
    bad.start()
    report = bad.doctor()
    assert "drivers" not in report.bad()
    user = next(one for one in report.findings if one["looked_at"] == "guests' user")
    assert user["state"] == "ok" and user["found"].startswith(f"uid {pwd_of('libvirt-qemu')},")


def test_a_machine_on_a_host_that_confines_nobody(bad: BadHost, attempt: Attempt) -> None:
    """Said in words before it is made; that is the host's business, and no reason to refuse."""
    bad.stop()
    bad.get_drivers()
    bad.start()
    # Not started: this host has no virtlogd.
    unstarted = {"cloudify.interfaces.lifecycle": {"start": {}, "poststart": {}, "get_state": {}}}
    blueprint = attempt.blueprint({"thing": vm(accelerator="tcg") | {"interfaces": unstarted}}, {})
    said = []
    for words in (("install", blueprint), ("uninstall",)):
        command = [*bad.within, ROOT / ".venv/bin/cfy", *words, "-b", "bad"]
        done = subprocess.run(command, env=attempt.cfy.environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout + done.stderr)
    warnings = [line for line in said[0].splitlines() if "WARNING" in line]
    assert len([line for line in warnings if "guests' user of qemu:///system: guests run as root" in line]) == 1
    assert len([line for line in warnings if "the kernel has AppArmor, and libvirt does not use it" in line]) == 1


# What no host of today is, by limits that are moved.
MOVED = """
from cloudify_libvirt.core.doctor import hypervisor, surroundings
from cloudify_libvirt.cli.main import main
{}
main()
"""


def moved(*limits: str) -> Report:
    return doctor(program=(sys.executable, "-c", MOVED.format("\n".join(limits))))


def test_old_version_and_wrong_clock() -> None:
    report = moved("hypervisor._OLDEST = 99_000_000", "surroundings._EARLIEST_S = 1 << 40")
    assert report.code == 1 and report.bad() == {"version": "warning", "clock": "problem"}
    version = report.the("version", "warning")
    says(version["why"], "older than 99.0.0 is untried")
    assert version["found"].startswith("libvirt ") and version["command"] == "apt-get full-upgrade"
    assert report.the("clock", "problem")["command"] == "apt-get install chrony && chronyc makestep"


def test_clock_that_nothing_keeps_right() -> None:
    """What the kernel says of its clock, taken once for an error and once for none."""
    found = moved("surroundings._TIME_ERROR = surroundings._state_of_clock()").the("clock", "warning")
    says(found["found"], "not synchronized")
    assert found["command"] == "apt-get install chrony"
    found = moved("surroundings._TIME_ERROR = -1").the("clock", "ok")
    says(found["found"], ", synchronized")
