"""What a lab is, and what both sides of its namespaces need to know about it."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Below the lab's directory -> where libvirt looks for it.
STATE = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
STOP_TIMEOUT_S = 10


class LabError(Exception):
    """What failed, on which lab, why, and what to do."""

    exit_code = 1


class NotRunningError(LabError):
    """The lab would have to run for this."""

    exit_code = 3


@dataclass(frozen=True)
class Lab:
    """One lab by name; everything it keeps is below `home`."""

    name: str
    home: Path

    @property
    def console(self) -> Path:
        """Messages of PID 1, and what the daemons print."""
        return self.home / "log" / "console.log"

    @property
    def failure(self) -> Path:
        """Why a daemon gave up; absent when none did."""
        return self.home / "run" / "failed"

    @property
    def cgroup(self) -> str:
        """Name its control group: two labs of one name may live in different directories."""
        return f"cloudify-lab-{self.name}-{hashlib.sha256(bytes(self.home)).hexdigest()[:8]}"

    @property
    def uri(self) -> str:
        """Address libvirtd from outside: a socket in a directory is not bound to a network namespace."""
        return f"qemu+unix:///system?socket={self.home}/run/libvirt-sock"

    @property
    def init_arguments(self) -> list[str]:
        """End of PID 1's command line; tells it from a process that got its pid later."""
        return ["_init", self.name, str(self.home)]

    def pid(self) -> int | None:
        """Return the pid of the lab's PID 1 as the machine sees it, None when it is not running."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.home / "pid").read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            return pid if arguments[-4:-1] == self.init_arguments else None
        return None

    def cgroups(self) -> list[Path]:
        """Return the groups recorded at the last start: the next command may come from other groups."""
        with contextlib.suppress(FileNotFoundError):
            return [Path(line) for line in (self.home / "cgroups").read_text().splitlines()]
        return []


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.replace(path)
