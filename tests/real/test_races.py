"""Several at once on one host: processes, users, deployments; who comes second waits or is told, and nobody fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import libvirt
import pytest
import yaml

from cloudify_libvirt import volume_tasks
from cloudify_libvirt.core.errors import Busy
from cloudify_libvirt.core.host import lock
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.storage.bases import BASE_NAME
from cloudify_libvirt.core.volume import Volume
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, PYTHON, QEMU, ROOT, Cfy, Host

DOMAINS, NOBODY = 20, 65534
POOL = IMAGES / "race"
SOCKET = Path("/run/libvirt/libvirt-sock")
MIB = 1024**2
HOLD = """
import sys, time
from cloudify_libvirt.core.host.lock import host_lock
with host_lock("qemu:///system", sys.argv[1]):
    print("held", flush=True)
    time.sleep(900)
"""
# As a member of libvirt's group: another user, who may use the same daemon.
NETWORKS = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
if sys.argv[3] != "0":
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
from cloudify_libvirt import network_tasks
from tests.driver.conftest import Node
gate, rounds, made = Path(sys.argv[2]), int(sys.argv[4]), []
for turn in range(rounds):
    params = {"name": f"race-{os.getuid()}-{turn}", "cidr": "auto", "mode": "open", "dhcp": False,
              "dns": {"enable": False}, "instance_uuid": f"{turn:08x}-0000-4000-8000-{os.getuid():012x}"}
    node = Node(name=f"net{turn}", params=params, properties={"libvirt_auth": "qemu:///system"}, deployment="race")
    (gate / f"{os.getuid()}-{turn}").touch()
    deadline = time.monotonic() + 120
    while len(list(gate.glob(f"*-{turn}"))) < 2:
        assert time.monotonic() < deadline, "the other one did not come"
        time.sleep(0.002)
    node.run(network_tasks.create)
    made.append((node, node.runtime["bridge"], node.runtime["cidr"]))
for node, _bridge, _cidr in made:
    node.run(network_tasks.delete)
print(json.dumps([(bridge, cidr) for _node, bridge, cidr in made]))
"""

# All want one MAC: whoever chose it first without knowing of the others.
ONE_MAC = """
import sys, time
from pathlib import Path
from cloudify.exceptions import NonRecoverableError, RecoverableError
from cloudify_libvirt import domain_tasks
from tests.driver.conftest import Node
number, gate, wanted = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
params = {"name": f"race-mac-{number}", "memory": "32 MiB", "wait_for_ip": False,
          "networks": [{"network": "race-none", "mac": "52:54:00:11:22:33"}]}
node = Node(name=f"mac{number}", params=params, properties={"libvirt_auth": "qemu:///system"}, deployment="race")
node.run(domain_tasks.validate)
(gate / str(number)).touch()
deadline = time.monotonic() + 300
while len(list(gate.iterdir())) < wanted:
    assert time.monotonic() < deadline, "the others did not come"
    time.sleep(0.001)
try:
    node.run(domain_tasks.create)
    node.run(domain_tasks.configure)
    print("defined")
except (NonRecoverableError, RecoverableError) as error:
    print("refused", error)
(gate / f"{number} is done").touch()
while len(list(gate.glob("* is done"))) < wanted:
    assert time.monotonic() < deadline, "the others did not end"
    time.sleep(0.01)
node.run(domain_tasks.delete)
"""


@pytest.fixture
def pool(clean_host: Host) -> Iterator[libvirt.virStoragePool]:
    """A pool that all deployments of a test share, made by nobody's blueprint."""
    xml = f"<pool type='dir'><name>race</name><target><path>{POOL}</path></target></pool>"
    found = clean_host.connection.storagePoolDefineXML(xml)
    found.build()
    found.create()
    yield found
    left = found.listVolumes()
    found.destroy()
    found.undefine()
    assert left == []
    POOL.rmdir()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk image without a system: its guests start, and nothing runs in them."""
    path = tmp_path / "empty.raw"
    path.write_bytes(os.urandom(MIB) + bytes(3 * MIB))
    return path


def blueprint(directory: Path, name: str, count: int, image: Path, state: str = "defined") -> Path:
    """Machines with an overlay of the image each; ``defined``: they are made, and not started."""
    machine = {
        "type": "cloudify.libvirt.domain",
        "capabilities": {"scalable": {"properties": {"default_instances": count}}},
        "properties": {
            "libvirt_auth": QEMU,
            "params": {"name": f"{name}-{{{{ number }}}}", "memory": "32 MiB", "image": str(image), "pool": "race",
                       "networks": [], "wait_for_ip": False, "shutdown_timeout_s": 0},
        },
    }  # fmt: skip
    if state == "defined":
        machine["interfaces"] = {"cloudify.interfaces.lifecycle": {"start": {}, "poststart": {}, "get_state": {}}}
    document = {
        "tosca_definitions_version": "cloudify_dsl_1_3",
        "imports": ["cloudify/types/types.yaml", "plugin:cloudify-libvirt-plugin"],
        "node_templates": {"machine": machine},
    }
    path = directory / name / "blueprint.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def refreshed(times: list[int]) -> Iterator[None]:
    """Refresh the pool again and again, as another client would; ``times`` gets how often it went, and did not."""
    done = threading.Event()
    connection = libvirt.open(QEMU)
    handle = connection.storagePoolLookupByName("race")

    def refresh() -> None:
        while not done.is_set():
            try:
                handle.refresh(0)
                times[0] += 1
            except libvirt.libvirtError:
                times[1] += 1

    thread = threading.Thread(target=refresh)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def start(cfy: Cfy, *arguments: object) -> subprocess.Popen[str]:
    """Start cfy, and do not wait."""
    return subprocess.Popen(
        [str(word) for word in (ROOT / ".venv/bin/cfy", *arguments)], env=cfy.environment, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(*processes: subprocess.Popen[str]) -> None:
    """Wait for all; each must have gone well."""
    for process in processes:
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output[-6000:]


def files(start: str = "", end: str = "") -> list[str]:
    """What is in the pool's directory, whether libvirt knows it or not."""
    return sorted(path.name for path in POOL.iterdir() if path.name.startswith(start) and path.name.endswith(end))


def bases() -> list[str]:
    return [name for name in files() if BASE_NAME.fullmatch(name)]


def running(pool: libvirt.virStoragePool) -> set[str]:
    """The names of the machines that run."""
    found = pool.connect().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)
    return {domain.name() for domain in found}


def test_twenty_domains_while_another_client_refreshes_their_pool(
    pool: libvirt.virStoragePool, cfy: Cfy, image: Path, tmp_path: Path
) -> None:
    path, times = blueprint(tmp_path, "many", DOMAINS, image, "running"), [0, 0]
    with refreshed(times):
        installed = cfy("install", path, "-b", "many", "--task-retries", "0", "--task-thread-pool-size", "8")
        assert len(files("many-", "-root.qcow2")) == DOMAINS
        assert running(pool) == {f"many-{number}" for number in range(1, DOMAINS + 1)}
        cfy("uninstall", "-b", "many", "--task-retries", "0", "--task-thread-pool-size", "8")
    print(
        f"{DOMAINS} domains in {installed.seconds:.1f} s; the pool was refreshed {times[0]} times, {times[1]} refused"
    )
    assert times[0] > DOMAINS
    assert not installed.lines("Task failed")


CLONE = "<volume><name>{}</name><capacity>1</capacity><target><format type='qcow2'/></target></volume>"


@contextmanager
def halted_clone(pool: libvirt.virStoragePool, source: str, name: str) -> Iterator[int]:
    """Another client copies a volume, and the program that does it stands still; yields its process."""
    handle = libvirt.open(QEMU).storagePoolLookupByName(pool.name())

    def clone() -> None:
        handle.createXMLFrom(CLONE.format(name), handle.storageVolLookupByName(source), 0)

    with ThreadPoolExecutor(1) as others:
        copying, deadline = others.submit(clone), time.monotonic() + 120
        while not (pid := halted(name)):
            assert time.monotonic() < deadline, "nobody saw who copies"
            if copying.done():
                # It had ended before anybody saw it.
                copying.result()
                handle.storageVolLookupByName(name).delete(0)
                copying = others.submit(clone)
            time.sleep(0.001)
        try:
            yield pid
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            copying.result(120)
    handle.storageVolLookupByName(name).delete(0)


def halted(name: str) -> int:
    """Halt the process of qemu-img that writes a file of the pool; 0 where there is none."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if not words[0].endswith(b"qemu-img") or str(POOL / name).encode() not in words:
                continue
            os.kill(int(path.name), signal.SIGSTOP)
            while (state := (path / "stat").read_text().rsplit(")", 1)[1].split()[0]) != "T":
                if state == "Z":
                    return 0
                time.sleep(0.001)
            return int(path.name)
    return 0


def test_what_libvirt_calls_busy_is_done_when_it_is_not(
    pool: libvirt.virStoragePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody copies a volume: until it is copied, libvirt neither reads its pool anew nor deletes it."""
    params = {"name": "race-source", "pool": "race", "size": "64 MiB", "format": "raw"}
    node = Node(name="source", params=params, properties={"libvirt_auth": QEMU}, deployment="race")
    node.run(volume_tasks.create)
    (POOL / "race-source").write_bytes(os.urandom(64 * MIB))
    ours = Pool.find(connect(QEMU), "race")
    assert ours is not None

    refused: list[str] = []

    def until_refused(owner: type, name: str, pid: int) -> None:
        """Let the copy go on as soon as libvirt has refused ours."""
        call = getattr(owner, name)

        def tried(self: object) -> None:
            try:
                call(self)
            except Busy as busy:
                refused.append(busy.reason)
                os.kill(pid, signal.SIGCONT)
                raise

        monkeypatch.setattr(owner, name, tried)

    with halted_clone(pool, "race-source", "race-copy") as pid:
        until_refused(Pool, "_refresh", pid)
        ours.refresh()
    assert refused and "asynchronous jobs running" in refused[0]
    refused.clear()
    with halted_clone(pool, "race-source", "race-copy") as pid:
        until_refused(Volume, "_delete", pid)
        node.run(volume_tasks.delete)
    assert refused and "is still in use" in refused[0], refused
    assert files() == []


@pytest.mark.parametrize("turns", [1, pytest.param(20, marks=pytest.mark.chaos)])
def test_two_deployments_from_one_image_at_once(
    pool: libvirt.virStoragePool, cfy: Cfy, image: Path, tmp_path: Path, turns: int
) -> None:
    paths = {name: blueprint(tmp_path, name, 3, image, "running") for name in ("left", "right")}
    for turn in range(turns):
        ended(*(start(cfy, "install", path, "-b", name, "--task-retries", "0") for name, path in paths.items()))
        assert len(bases()) == 1, f"turn {turn}: the image is there once"
        pool.refresh(0)
        assert len([name for name in pool.listVolumes() if name.endswith("-root.qcow2")]) == 2 * 3
        assert running(pool) == {f"{name}-{number}" for name in paths for number in (1, 2, 3)}
        # The last overlay of one goes while the other makes its first: the base must be there for it.
        ended(start(cfy, "uninstall", "-b", "left"))
        ended(start(cfy, "uninstall", "-b", "right"), start(cfy, "install", paths["left"], "-b", "left"))
        assert len(bases()) == 1
        assert running(pool) == {"left-1", "left-2", "left-3"}
        ended(start(cfy, "uninstall", "-b", "left"))
        assert bases() == [] and running(pool) == set()


def test_two_deployments_that_go_at_once_leave_no_image(
    pool: libvirt.virStoragePool, cfy: Cfy, image: Path, tmp_path: Path
) -> None:
    names = ("one", "two", "three")
    for name in names:
        cfy("install", blueprint(tmp_path, name, 2, image), "-b", name)
    assert len(bases()) == 1
    ended(*(start(cfy, "uninstall", "-b", name) for name in names))
    assert files() == []


def test_the_locks_of_killed_processes_hold_nobody_up(
    pool: libvirt.virStoragePool, cfy: Cfy, image: Path, tmp_path: Path
) -> None:
    whats = ["networks", f"pool {pool.UUIDString()}"]
    deployments = cfy.directory / ".cloudify/profiles/local/deployments"
    with ExitStack() as stack:
        holders = []
        for what in whats:
            holder = stack.enter_context(
                subprocess.Popen([PYTHON, "-c", HOLD, what], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(holder.kill)
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            holders.append(holder)
        waiting = start(cfy, "install", blueprint(tmp_path, "late", 1, image), "-b", "late")
        deadline = time.monotonic() + 300
        while not (deployments / "late").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        assert waiting.poll() is None
        assert files("late") == [], "it waits for the pool"
        begin = time.monotonic()
        for holder in holders:
            holder.send_signal(signal.SIGKILL)
        ended(waiting)
        assert time.monotonic() - begin < lock.TIMEOUT_S - 10
    cfy.uninstall("late")


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that every user may write to; those of pytest are its user's alone."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="race-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def socket_for_all() -> Iterator[None]:
    """The lab lets only root in; elsewhere a group may use libvirt's socket, of which anybody can be."""
    mode = SOCKET.stat().st_mode
    SOCKET.chmod(0o777)
    yield
    SOCKET.chmod(mode)


@pytest.mark.usefixtures("socket_for_all", "clean_host")
def test_two_users_of_one_host_get_bridges_and_subnets_of_their_own(open_to_all: Path) -> None:
    rounds, processes = 8, []
    for uid in (0, NOBODY):
        home = open_to_all / f"home-{uid}"
        home.mkdir()
        os.chown(home, uid, uid)
        words = [PYTHON, "-W", "ignore", "-c", NETWORKS, str(ROOT), str(open_to_all), str(uid), str(rounds)]
        environment = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": str(home), "XDG_CACHE_HOME": str(home)}
        process = subprocess.Popen(
            words, cwd="/", env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        processes.append(process)
    ends = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [complaint[-3000:] for _said, complaint in ends]
    answers = [json.loads(said.splitlines()[-1]) for said, _complaint in ends]
    for turn, (ours, theirs) in enumerate(zip(*answers, strict=True)):
        assert set(ours).isdisjoint(theirs), f"turn {turn}: {ours} and {theirs}"
    every = [pair for answer in answers for pair in answer]
    assert len({bridge for bridge, _cidr in every}) == len({cidr for _bridge, cidr in every}) == 2 * rounds


@pytest.mark.usefixtures("clean_host")
def test_of_five_that_want_one_mac_one_gets_it(tmp_path: Path) -> None:
    wanted = 5
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state")}
    (gate := tmp_path / "gate").mkdir()
    processes = [
        subprocess.Popen([str(word) for word in (PYTHON, "-W", "ignore", "-c", ONE_MAC, number, gate, wanted)],
                         env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(wanted)
    ]  # fmt: skip
    ends = [process.communicate(timeout=600) for process in processes]
    assert {process.returncode for process in processes} == {0}, [complaint[-2000:] for _said, complaint in ends]
    said = sorted(output.splitlines()[-1] for output, _complaint in ends)
    assert [line.split()[0] for line in said] == ["defined", *["refused"] * (wanted - 1)], said
    assert all("52:54:00:11:22:33" in line for line in said[1:]), said


def test_root_waits_for_another_user() -> None:
    script = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.setgroups([]); os.setuid({NOBODY})\n{HOLD}"
    words = [sys.executable, "-W", "ignore", "-c", script, "networks"]
    with subprocess.Popen(words, cwd="/", stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        begin = time.monotonic()
        with pytest.raises(Exception, match=rf"process {holder.pid} \(python"), host_lock(QEMU, "networks", 0.3):
            pass
        assert time.monotonic() - begin >= 0.3
        holder.send_signal(signal.SIGKILL)
        with host_lock(QEMU, "networks", 60):
            pass
