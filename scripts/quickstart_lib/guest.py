"""The image to boot, and the login into what booted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cloudify_libvirt.core.units import human_size
from cloudify_libvirt.core.wait import Signal, wait_until
from quickstart_lib.host import ROOT, Host
from quickstart_lib.problem import Problem

BUILD = ROOT / "scripts" / "build-guest"
# The addresses are handed out again and again: a remembered host key would be another machine's.
SSH_OPTIONS = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
LOGIN_TIMEOUT_S, ATTEMPT_TIMEOUT_S = 90.0, 30.0
SSH_FAILED = 255


def cache() -> Path:
    """Return the directory of built guests and fetched images."""
    return Path(os.environ.get("CLOUDIFY_LIBVIRT_CACHE") or Path.home() / ".cache" / "cloudify-libvirt")


def build_tiny(show: Callable[[str], None]) -> Path:
    """Return the tiny guest's image, built at the first call; ``show`` gets what is being done."""
    process = subprocess.Popen([str(BUILD), "tiny"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    said: list[str] = []
    ended = Signal()
    meter = threading.Thread(target=_measure, args=(process, ended, show), daemon=True)
    meter.start()
    for line in process.stderr:
        said.append(line.rstrip("\n"))
        show(f"building the guest: {re.sub(r'^ *[0-9.]+s ', '', line).strip()}")
    image = process.stdout.read().strip()
    code = process.wait()
    ended.set()
    meter.join()
    if code != 0 or not image:
        raise Problem("the tiny guest cannot be built", "Mend what it says, then run this again.", said[-8:])
    return Path(image)


def _measure(process: subprocess.Popen[str], ended: Signal, show: Callable[[str], None]) -> None:
    """Show bytes and rate while packages come in."""
    last, then = 0, time.monotonic()
    while process.poll() is None:
        ended.wait(0, 1.0)
        now, size = time.monotonic(), _downloaded()
        if size > last:
            show(
                f"building the guest: {human_size(size)} of packages, {human_size(int((size - last) / (now - then)))}/s"
            )
        last, then = size, now


def _downloaded() -> int:
    total = 0
    for path in (cache() / "guests").glob(".build-tiny-*/*.debs/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


@dataclass(frozen=True)
class Login:
    """How to log into one machine."""

    host: Host
    key: Path
    target: str  # user@address

    def shown(self) -> str:
        """Return the command for the user to type."""
        words = ["ssh", "-i", str(self.key), *SSH_OPTIONS, self.target]
        return self.host.shown_prefix + shlex.join(words)

    def run(self, command: str) -> str:
        """Return what the command says there; the port may open a moment after the address is known."""
        batch = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=3"]
        words = [*self.host.prefix, "ssh", "-i", str(self.key), *SSH_OPTIONS, *batch, self.target, command]
        last = [""]

        def attempt() -> str | None:
            done = subprocess.run(
                words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=ATTEMPT_TIMEOUT_S
            )
            last[0] = done.stderr.strip()
            return None if done.returncode == SSH_FAILED else done.stdout

        try:
            said = wait_until(attempt, timeout_s=LOGIN_TIMEOUT_S, signal=Signal(), poll_s=0.3)
        except subprocess.TimeoutExpired:
            said = None
        if said is None:
            raise Problem(f"no login at {self.target}", f"Try it: {self.shown()}", [last[0]])
        return said


def look_around(logins: list[Login]) -> list[list[str]]:
    """Return what ``hostname`` and ``uname -a`` say on each machine, asked at the same time."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return [said.splitlines() for said in pool.map(lambda login: login.run("hostname; uname -a"), logins)]
