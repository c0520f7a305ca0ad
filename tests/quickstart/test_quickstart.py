"""`scripts/quickstart`: from an empty home to machines that answer, again, after a kill, and back to nothing."""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "quickstart"
CACHE = Path(os.environ.get("CLOUDIFY_LIBVIRT_CACHE") or Path.home() / ".cache" / "cloudify-libvirt")
# It boots nothing: 4 s on a busy machine, where the first takes 24 s. On a far slower one it takes half of the first.
SECOND_RUN_S = 30

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root"),
]


@dataclass(frozen=True)
class Result:
    code: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Newcomer:
    """Somebody with an empty home."""

    home: Path
    labs: Path
    on_machine: tuple[str | Path, ...] = ()  # words before a command that bring it onto another machine
    cache: Path = CACHE

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "CFY_", "SUDO_"))}
        mine = {"HOME": str(self.home), "CLOUDIFY_LIBVIRT_LAB_DIR": str(self.labs)}
        return {**kept, **mine, "CLOUDIFY_LIBVIRT_CACHE": str(self.cache)}

    @property
    def state(self) -> Path:
        return self.home / ".local/state/cloudify-libvirt/quickstart"

    def quickstart(self, *words: str, timeout_s: float = 1200) -> Result:
        begin = time.monotonic()
        done = subprocess.run(
            [*self.on_machine, SCRIPT, *words], env=self.environment, cwd=ROOT, text=True, timeout=timeout_s,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, time.monotonic() - begin)

    def up(self, *words: str) -> Result:
        result = self.quickstart(*words)
        assert result.code == 0, result.output
        return result

    def processes(self) -> list[str]:
        """Command lines of what runs for this newcomer."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                known = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
                if str(self.labs).encode() in known and int(directory.name) != os.getpid():
                    found.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def namespaces(self) -> set[str]:
        """What the processes of the lab see as theirs."""
        pid = (self.labs / "quickstart" / "pid").read_text()
        return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt", "pid", "uts")}


def in_use() -> set[str]:
    """All namespaces that any process of the machine is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        try:
            found.add(str(link.readlink()))
        except OSError:
            continue
    return found


def eventually(ask: Callable[[], bool]) -> bool:
    """Whether it becomes true: processes that were killed end a moment later."""
    deadline = time.monotonic() + 60
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def power_failure(newcomer: Newcomer) -> None:
    """Kill the lab's first process, and wait for its end."""
    pid = int((newcomer.labs / "quickstart/pid").read_text())
    watched = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([watched], [], [], 60)[0]
    os.close(watched)


def assert_nothing_left(newcomer: Newcomer, *, without_uninstall: bool = False) -> None:
    """``without_uninstall``: the host was purged as it was; the ledger of what was made on it stays."""
    assert eventually(lambda: not newcomer.processes()), newcomer.processes()
    assert str(newcomer.labs) not in Path("/proc/mounts").read_text()
    assert list(newcomer.labs.iterdir()) == []
    # By it this user's machines are known again; what it was kept with is empty.
    files = {path for path in newcomer.home.rglob("*") if path.is_file()}
    kept = {path for path in files if "ledger" in path.parts} if without_uninstall else set()
    assert {path.name for path in files - kept} <= {"orchestrator"}
    assert {path.name for path in newcomer.home.iterdir()} <= {".local"}


@pytest.fixture(scope="module")
def provisioned() -> None:
    subprocess.run([ROOT / "scripts/provision", "run"], check=True)


def purge(labs: Path, name: str) -> None:
    subprocess.run([ROOT / "scripts/lab", "--name", name, "--dir", labs, "down", "--purge"], check=True)


@pytest.fixture
def newcomer(tmp_path: Path, provisioned: None) -> Iterator[Newcomer]:
    one = Newcomer(tmp_path / "home", tmp_path / "labs")
    one.home.mkdir()
    one.labs.mkdir()
    yield one
    purge(one.labs, "quickstart")


def on_lab() -> list[str]:
    """The option that keeps a test away from the machine's own libvirt, where there is one."""
    answer = subprocess.run(["virsh", "-q", "-c", "qemu:///system", "version"], capture_output=True)
    return ["--lab"] if answer.returncode == 0 else []


def machines(output: str) -> dict[str, str]:
    """{name: address} of the table of outputs."""
    return dict(re.findall(r"^(node-\d+) +([\d.]+) +\S*scripts/lab .* exec ssh -i ", output, re.MULTILINE))


def test_up_again_and_down(newcomer: Newcomer) -> None:
    first = newcomer.up("--machines", "2", *on_lab())
    shown = machines(first.output)
    assert sorted(shown) == ["node-1", "node-2"]
    for name, address in shown.items():
        assert re.search(rf"^{address} +{name} +Linux {name} \d.*GNU/Linux", first.output, re.MULTILINE), first.output
        assert re.search(rf"s  {name} +disk|s  machine_\w+ +disk", first.output)
        steps = [first.output.index(f"{name}           {step}") for step in ("defined", "started", "address")]
        assert steps == sorted(steps)
    assert "CFY <" not in first.output
    assert stat.S_IMODE((newcomer.state / "key").stat().st_mode) == 0o600
    assert first.output.rstrip().endswith("Take everything away again: scripts/quickstart --down")
    log = Path(re.search(r"full log: (\S+)\)", first.output)[1])  # type: ignore[index]
    assert "'install' workflow execution succeeded" in log.read_text()

    # The command that it printed works when typed.
    command = re.search(r"^node-1 +\S+ +(.*)$", first.output, re.MULTILINE)[1].strip()  # type: ignore[index]
    typed = subprocess.run(f"{command} hostname", shell=True, cwd=ROOT, env=newcomer.environment, capture_output=True)  # noqa: S602
    assert typed.stdout.decode().split() == ["node-1"], typed.stderr

    second = newcomer.up()
    assert machines(second.output) == shown
    assert all(f"Linux {name} " in second.output for name in shown)
    assert second.seconds < max(SECOND_RUN_S, first.seconds / 2), second.output
    assert len(list((newcomer.state / "logs").iterdir())) == 1

    other = newcomer.quickstart("--machines", "5")
    assert other.code == 1
    assert "a cluster of 2 is there already, not of 5" in other.output

    namespaces = newcomer.namespaces()
    assert namespaces <= in_use()
    assert newcomer.up("--down").code == 0
    assert eventually(lambda: not namespaces & in_use())
    assert_nothing_left(newcomer)
    assert "Nothing to take away" in newcomer.up("--down").output


def _started(newcomer: Newcomer, log_has: str) -> subprocess.Popen[bytes]:
    """Start quickstart and return when its log has the words."""
    process = subprocess.Popen(
        # A shell in the background ignores SIGINT, and so does all that it starts.
        ["env", "--default-signal=INT", SCRIPT, "--machines", "1", *on_lab()],
        env=newcomer.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not any(log_has in log.read_text() for log in newcomer.state.glob("logs/*-install.log")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process


def test_goes_on_after_a_kill(newcomer: Newcomer) -> None:
    process = _started(newcomer, "defined domain")
    engine = [pid for pid in Path("/proc").glob("[0-9]*") if _is_cfy_of(pid, newcomer)]
    assert engine
    for pid in [process.pid, *(int(path.name) for path in engine)]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    again = newcomer.up()
    assert "an earlier install did not end: going on with it" in again.output
    assert "Linux node-1 " in again.output

    # A power failure of the host: the domain is defined, and off.
    power_failure(newcomer)
    restarted = newcomer.up()
    assert "installed, but not running: node-1" in restarted.output
    assert machines(restarted.output) == machines(again.output)

    # Off and taken away without being started again.
    power_failure(newcomer)
    newcomer.up("--down")
    assert_nothing_left(newcomer, without_uninstall=True)


def test_interrupt_and_second_one_at_a_time(newcomer: Newcomer) -> None:
    process = _started(newcomer, "Creating node instance")
    assert "another quickstart is running" in newcomer.quickstart().output
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert eventually(lambda: not [line for line in newcomer.processes() if "cfy install" in line])
    newcomer.up("--down")
    assert_nothing_left(newcomer)


def _is_cfy_of(process: Path, newcomer: Newcomer) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        return str(newcomer.state / "inputs.yaml").encode() in words
    except OSError:
        return False


def test_failure_says_why(newcomer: Newcomer, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar"
    subprocess.run(["tar", "-cf", broken, "-C", ROOT, "LICENSE"], check=True)
    result = newcomer.quickstart("--machines", "1", "--image", str(broken), "--ssh-user", "root", *on_lab())
    assert result.code == 1
    assert f"image {broken}: it is the root file system of a container" in result.output
    assert "scripts/quickstart --down takes away what there is" in result.output
    assert "Traceback" not in result.output
    newcomer.up("--down")
    assert_nothing_left(newcomer)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[str | Path, ...]]:
    """A machine whose own libvirt answers: the words that run a command there."""
    lab = (ROOT / "scripts/lab", "--name", "machine", "--dir", tmp_path / "machines")
    subprocess.run([*lab, "up"], check=True)
    yield (*lab, "exec")
    purge(tmp_path / "machines", "machine")


def objects(machine: tuple[str | Path, ...]) -> str:
    lists = "virsh -q list --all --name; virsh -q net-list --all --name; virsh -q pool-list --all --name"
    files = "find /var/lib/libvirt/images /var/lib/libvirt/qemu/nvram -type f"
    done = subprocess.run([*machine, "sh", "-c", f"{lists}; {files}"], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def slow_url(machine: tuple[str | Path, ...]) -> Iterator[str]:
    """An image on a slow web server of that machine."""
    built = subprocess.run([ROOT / "scripts/build-guest", "tiny"], stdout=subprocess.PIPE, text=True, check=True)
    words = [*machine, sys.executable, "-m", "tests.quickstart.slow_server", built.stdout.strip()]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


def test_machine_with_its_own_libvirt(
    newcomer: Newcomer, machine: tuple[str | Path, ...], slow_url: str, tmp_path: Path
) -> None:
    """... and with an image of the user's, which takes a while to come."""
    there = Newcomer(newcomer.home, newcomer.labs, machine, tmp_path / "cache")
    before = objects(machine)
    result = there.up("--machines", "1", "--image", slow_url, "--ssh-user", "root")
    assert "using the machine's own libvirt" in result.output
    rate = r" image +download [\d.]+ \wiB of [\d.]+ MiB, [\d.]+ \wiB/s$"
    assert re.search(rate, result.output, re.MULTILINE), result.output
    assert re.search(r"^node-1 +[\d.]+ +ssh -i ", result.output, re.MULTILINE)
    assert "Linux node-1 " in result.output
    assert "node-1" in objects(machine)
    there.up("--down")
    assert objects(machine) == before
    assert_nothing_left(there)


# What an ordinary user's process sees; all else is as it is.
AS_USER = "import os; os.geteuid = lambda: 1000; from quickstart_lib.cli import main; main()"
# As the real one it runs the command as root, which this is; what it was told is kept.
SUDO = """#!/bin/sh
printf '%s\n' "$@" > "$0.told"
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    """A directory of programs, the first that is looked into."""
    directory = tmp_path / "programs"
    directory.mkdir()
    yield directory


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def as_user(newcomer: Newcomer, programs: Path, *words: str, others: str = "") -> str:
    environment = {**newcomer.environment, "PYTHONPATH": str(ROOT / "scripts"), "PATH": f"{programs}{others}"}
    command = [sys.executable, "-c", AS_USER, *words]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


def test_root_is_asked_for_where_no_libvirt_answers(newcomer: Newcomer, programs: Path) -> None:
    others = f":{os.environ['PATH']}"
    program(programs / "virsh", "#!/bin/sh\nexit 1\n")
    assert "this needs root, and there is no sudo" in as_user(newcomer, programs, "--down")
    program(programs / "sudo", SUDO)
    for words in (["--down"], ["--lab", "--down"]):
        said = as_user(newcomer, programs, *words, others=others)
        assert "Going on as root, with sudo: no libvirt answers this user." in said
        assert said.splitlines()[-1] == "Nothing to take away.", said
        told = (programs / "sudo.told").read_text().split()
        assert told == ["-H", "--preserve-env=CLOUDIFY_LIBVIRT_LAB_DIR,COLUMNS", str(SCRIPT), *words]
    (programs / "sudo.told").unlink()
    program(programs / "virsh", "#!/bin/sh\nexit 0\n")
    assert "Nothing to take away. Did it run as root?" in as_user(newcomer, programs, "--down", others=others)
    assert not (programs / "sudo.told").exists()
    as_user(newcomer, programs, "--lab", "--down", others=others)
    assert (programs / "sudo.told").exists(), "a private host needs root"


def test_wrong_options(newcomer: Newcomer, tmp_path: Path) -> None:
    assert "--image and --ssh-user go together" in newcomer.quickstart("--image", "x").output
    assert f"there is no {tmp_path}/none" in newcomer.quickstart("--ssh-key", str(tmp_path / "none")).output
    help_text = newcomer.up("--help").output
    assert "--down" in help_text
    newcomer.up("--down")
    assert_nothing_left(newcomer)
