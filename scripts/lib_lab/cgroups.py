"""The lab's own control groups, on machines with v1 (also beside v2) or v2."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from lib_lab.model import STOP_TIMEOUT_S, Lab, LabError, write


@dataclass(frozen=True)
class Hierarchy:
    """One mounted control group hierarchy of the machine."""

    mountpoint: Path
    kind: str
    options: str

    def parent(self) -> Path:
        """Return the group that a lab's group goes into: the caller's, so that its limits hold."""
        if self.kind == "cgroup2":
            # A v2 group with processes (the caller's) cannot hand on controllers, only the root can.
            return self.mountpoint
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and set(controllers.split(",")) <= set(self.options.split(",")):
                return self.mountpoint / path.lstrip("/")
        return self.mountpoint


def hierarchies() -> list[Hierarchy]:
    """List the v1 hierarchies, or the v2 one where there is no v1.

    On a hybrid machine the v2 one is left out: libvirt_lxc 9.0 dies when both are mounted.
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            found.append(Hierarchy(Path(left.split()[4]), kind, options.removeprefix("rw,")))
    return [one for one in found if one.kind == "cgroup"] or found


def make_cgroups(lab: Lab) -> None:
    """Create the lab's groups; recorded first, so that a killed start leaves nothing unknown."""
    wanted = {one.parent() / lab.cgroup: one.kind for one in hierarchies()}
    write(lab.home / "cgroups", "".join(f"{group}\n" for group in wanted))
    for group, kind in wanted.items():
        group.mkdir(exist_ok=True)
        if kind == "cgroup2":
            (group / "init").mkdir(exist_ok=True)
        elif (group / "cpuset.cpus").exists():
            # v1 starts these empty, and an empty cpuset takes no process.
            for name in ("cpuset.cpus", "cpuset.mems"):
                (group / name).write_text((group.parent / name).read_text())


def leaf(group: Path) -> Path:
    """Return where a lab's own processes live: v2 wants none in a group that libvirt divides."""
    return group / "init" if (group / "init").is_dir() else group


def join(groups: list[Path]) -> None:
    """Move the calling process into these groups."""
    for group in groups:
        (group / "cgroup.procs").write_text("0")


def remove_cgroups(lab: Lab) -> None:
    """Remove the lab's groups; the kernel may need a moment until the last process has left."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for group in lab.cgroups():
        while group.exists() and not remove_tree(group):
            if time.monotonic() > deadline:
                busy = (leaf(group) / "cgroup.procs").read_text().split()
                raise LabError(
                    f"cannot remove control group {group} of lab {lab.name}: "
                    f"still used by processes {busy}; end them and run `down` again"
                )
            time.sleep(0.01)
    (lab.home / "cgroups").unlink(missing_ok=True)


def remove_tree(group: Path) -> bool:
    """Remove a group and those below it; False when one is still in use."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
    except OSError:
        return False
    return True
