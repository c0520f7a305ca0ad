"""A Ceph of one monitor and one store in memory, for one test run: no manager, no replicas, all in one directory."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real.pools.storage import Daemon, answers, run

ADDRESS = "127.0.0.1:6799"
POOL = "shelf"
USER = "alice"

_SETTINGS = """\
[global]
fsid = {fsid}
mon host = v1:{address}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
run dir = {directory}
pid file = {directory}/$name.pid
admin socket = {directory}/$name.asok
log file = {directory}/$name.log
keyring = {directory}/keyring
mon data = {directory}/mon
mon data avail crit = 1
mon allow pool size one = true
ms bind msgr2 = false
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 268435456
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
"""


class Ceph:
    """The servers: ``key`` is what ``alice`` may use the pool ``shelf`` with."""

    def __init__(self, directory: Path) -> None:
        self._settings, keyring = directory / "ceph.conf", directory / "keyring"
        fsid, store = uuid.uuid4(), uuid.uuid4()
        self._settings.write_text(_SETTINGS.format(fsid=fsid, address=ADDRESS, directory=directory))
        for name in ("mon", "osd"):
            (directory / name).mkdir()
        for name, *caps in (("mon.", "mon"), ("client.admin", "mon", "osd"), ("osd.0", "osd")):
            allowed = [word for cap in caps for word in ("--cap", cap, "allow *")]
            mine = ["--cap", "mon", "allow profile osd"] if name == "osd.0" else []
            run("ceph-authtool", *([] if keyring.exists() else ["--create-keyring"]), keyring, "--gen-key", "-n", name,
                *allowed, *mine)  # fmt: skip
        monitors = directory / "monitors"
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"v1:{ADDRESS}", monitors)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors)
        self._daemons = [self._daemon("ceph-mon", "a", "status")]
        self("osd", "new", store)
        self._run("ceph-osd", "-i", 0, "--mkfs", "--osd-uuid", store)
        self._daemons.append(self._daemon("ceph-osd", "0", "status"))
        self("osd", "pool", "create", POOL, 8)
        self.rbd("pool", "init", POOL)
        self.key: str = self._new_user()

    def _new_user(self) -> str:
        user = self("auth", "get-or-create", f"client.{USER}", "mon", "profile rbd", "osd", f"profile rbd pool={POOL}",
                    "--format", "json")  # fmt: skip
        return str(json.loads(user)[0]["key"])

    def _daemon(self, program: str, name: str, *question: str) -> Daemon:
        command = (program, "-c", self._settings, "-f", "-i", name)
        ask = ("ceph", "-c", str(self._settings), "--connect-timeout", "10", *question)
        return Daemon(*command, ready=lambda: answers(*ask))

    def _run(self, program: str, *arguments: object) -> str:
        return run("timeout", 120, program, "-c", self._settings, *arguments)

    def __call__(self, *arguments: object) -> str:
        """Ask the monitor as its administrator."""
        return self._run("ceph", *arguments)

    def rbd(self, *arguments: object) -> str:
        """Look at the images, or make one, with no code of the product."""
        return self._run("rbd", *arguments)

    def size_of(self, image: str) -> int:
        return int(json.loads(self.rbd("info", "--format", "json", f"{POOL}/{image}"))["size"])

    def images(self) -> list[str]:
        return self.rbd("ls", POOL).split()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The monitor takes connections, and says nothing."""
        monitor = self._daemons[0].process
        monitor.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            monitor.send_signal(signal.SIGCONT)
            self("status")

    def end(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.end()
