"""Locks of one machine: between threads, processes and users, without leftovers, and safe from whoever was first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudify_libvirt.core.errors import AccessDenied, Busy
from cloudify_libvirt.core.host import lock
from cloudify_libvirt.core.host.lock import host_lock

ROOT = Path(__file__).resolve().parents[2]
URI = "qemu:///system"
HOLD = """
import sys, time
from pathlib import Path
from cloudify_libvirt.core.host import lock
lock._DIRECTORIES, lock._is_everybodys = (Path(sys.argv[1]),), Path.is_dir
with lock.host_lock(sys.argv[2], sys.argv[3]):
    print("held", flush=True)
    time.sleep(600)
"""
COUNT = """
import sys, time
from pathlib import Path
from cloudify_libvirt.core.host import lock
lock._DIRECTORIES, lock._is_everybodys = (Path(sys.argv[1]),), Path.is_dir
counter = Path(sys.argv[2])
for _ in range(int(sys.argv[3])):
    with lock.host_lock("", "counter"):
        value = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(value + 1))
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory such as /run/lock of its own, which other users can reach."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o1777)
        monkeypatch.setattr(lock, "_DIRECTORIES", (directory,))
        monkeypatch.setattr(lock, "_is_everybodys", Path.is_dir)
        yield directory


@contextmanager
def held_elsewhere(place: Path, uri: str = URI, what: str = "networks") -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", HOLD, str(place), uri, what]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def free(uri: str = URI, what: str = "networks", timeout_s: float = 0.0) -> bool:
    try:
        with host_lock(uri, what, timeout_s):
            return True
    except Busy:
        return False


def test_another_process_waits_and_is_told_for_whom(place: Path) -> None:
    with held_elsewhere(place) as process:
        with pytest.raises(Busy, match=rf"process {process.pid} \(python") as caught, host_lock(URI, "networks", 0.1):
            pass
        assert caught.value.retryable
        assert not free("lxc:///system"), "all drivers of a host share its networks"
        assert free(what="pool x")
        assert free("qemu+ssh://other/system")


def test_the_lock_of_a_killed_process_is_free_at_once_and_nothing_is_left_over(place: Path) -> None:
    with held_elsewhere(place) as process:
        assert not free()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert free()
    for number in range(50):
        assert free(what=f"pool {number}")
    assert [path.name for path in place.iterdir()] == ["cloudify-libvirt.lock"], "one file, however many locks"


def test_threads_of_one_process_exclude_each_other(place: Path) -> None:
    inside, most, ready = [0], [0], threading.Barrier(8)

    def work() -> None:
        ready.wait()
        for _ in range(3):
            with host_lock(URI, "networks"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_processes_count_without_losing_one(place: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    words = [sys.executable, "-c", COUNT, str(place), str(counter), "25"]
    for process in [subprocess.Popen(words, cwd=ROOT) for _ in range(6)]:
        assert process.wait(300) == 0
    assert counter.read_text() == "150"


def test_a_file_that_is_removed_meanwhile_does_not_part_the_waiting_from_the_new(place: Path) -> None:
    path = place / "cloudify-libvirt.lock"
    with held_elsewhere(place):
        path.unlink()
        # Who comes now locks the new file; who waited on the old one must not hold that.
        with host_lock(URI, "networks", 30):
            assert path.exists()
            assert not free(), "both look at the new file"


def test_where_run_lock_is_not_everybodys_it_is_where_no_logout_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of /dev/shm logind removes a user's files when he logs out, also those on which others have locks."""
    monkeypatch.setattr(lock, "_is_everybodys", lambda path: str(path) != "/run/lock")
    assert lock.path() == Path("/tmp/cloudify-libvirt.lock")


def test_a_file_in_use_does_not_grow_old(place: Path) -> None:
    assert free()
    path = place / "cloudify-libvirt.lock"
    os.utime(path, (1, 1))
    assert free()
    assert time.time() - path.stat().st_mtime < 60
    young = path.stat().st_mtime_ns
    assert free()
    assert path.stat().st_mtime_ns == young, "once a day is enough"


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "fifo"])
def test_what_somebody_put_there_instead_is_neither_followed_nor_waited_for(
    kind: str, place: Path, tmp_path: Path
) -> None:
    path, victim = place / "cloudify-libvirt.lock", tmp_path / "victim"
    victim.write_text("mine")
    {
        "link": lambda: path.symlink_to(victim), "dangling": lambda: path.symlink_to(tmp_path / "new"),
        "directory": path.mkdir, "fifo": lambda: os.mkfifo(path),
    }[kind]()  # fmt: skip
    with (
        pytest.raises(AccessDenied, match=r"cannot lock with file .*cloudify-libvirt\.lock") as caught,
        host_lock(URI, "x"),
    ):
        pass
    assert "remove it" in caught.value.remedy
    assert victim.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_everybody_may_open_it_whatever_the_umask(place: Path) -> None:
    old = os.umask(0o077)
    try:
        assert free()
    finally:
        os.umask(old)
    found = (place / "cloudify-libvirt.lock").stat()
    assert (found.st_mode & 0o777, found.st_size) == (0o666, 0)


def test_only_a_directory_where_none_removes_anothers_files_is_taken(tmp_path: Path) -> None:
    assert not lock._is_everybodys(tmp_path), "it is not everybody's"
    assert not lock._is_everybodys(tmp_path / "none")
    tmp_path.chmod(0o777)
    assert not lock._is_everybodys(tmp_path), "everybody may remove everybody's files"
    tmp_path.chmod(0o1777)
    assert lock._is_everybodys(tmp_path) == (os.getuid() == 0), "root's only"
    (tmp_path / "link").symlink_to(tmp_path)
    assert not lock._is_everybodys(tmp_path / "link")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_users_exclude_each_other_on_the_host_but_not_in_their_own_sessions(place: Path) -> None:
    def as_nobody(uri: str) -> str:
        script = (
            "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
            "from cloudify_libvirt.core.errors import Busy\n"
            "from cloudify_libvirt.core.host import lock\n"
            "lock._is_everybodys = lambda _path: True; lock._DIRECTORIES = (Path(sys.argv[2]),)\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "try:\n"
            "    with lock.host_lock(sys.argv[3], 'networks', 0): print('free')\n"
            "except Busy as error: print(error.reason)\n"
        )
        words = [sys.executable, "-c", script, str(ROOT), str(place), uri]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with host_lock(URI, "networks"), host_lock("qemu:///session", "networks"):
        assert "another user's process holds it" in as_nobody(URI)
        assert as_nobody("qemu:///session") == "free\n"
    assert as_nobody(URI) == "free\n", "root's file is everybody's"
    (place / "cloudify-libvirt.lock").unlink()
    assert as_nobody(URI) == "free\n"
    assert (place / "cloudify-libvirt.lock").stat().st_uid == 65534
    assert free(), "and everybody's file is root's"
