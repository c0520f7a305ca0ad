"""What is killed, what stands before, and what a user runs again after it."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.shop import DEPLOYMENT, Harm, Run, Shop
from tests.chaos.world import World, differences

Command = tuple[object, ...]
# Of a phase's name, where its disk is full.
FULL = ", on a full disk"
# What says that there is no room, and where.
ROOM = re.compile(r"(?m)^(?=.*([Nn]o space left|\d (\wi)?B left|Is there room)).*(\w/\w|pool)")
BACKUP = "cloudify.interfaces.libvirt_backup"


class Failed(AssertionError):
    """A kill was not survived."""


@dataclass(frozen=True)
class Phase:
    """A command that is killed.

    ``needs``, ``gives``: the worlds before and after it, by name. ``back``: what leads from there to the world before;
    empty: the command's own world is the next phase's. ``again``: what a user runs after the kill.
    """

    name: str
    needs: str
    gives: str
    command: Callable[[Shop], Command]
    again: Callable[[Shop, Command, Run], Run]
    back: Callable[[Shop], list[Command]] = lambda _shop: []


def same(shop: Shop, command: Command, killed: Run) -> Run:
    """The same command once more, unless it was killed when it had said that it succeeded."""
    if killed.code == -9 and "workflow execution succeeded" in killed.said:
        return Run(0, killed.said, [])
    return shop.cfy(*command)


def go_on(shop: Shop, command: Command, killed: Run) -> Run:
    """What docs/local-mode.md says of a killed install: go on with it; the same again where nothing had begun."""
    if "Starting 'install' workflow" in killed.said:
        return shop.cfy("executions", "start", "install", "-b", DEPLOYMENT)
    return shop.cfy(*command)


def uninstall_again(shop: Shop, command: Command, _killed: Run) -> Run:
    """The same again; where cfy knows of no deployment, there is nothing to do: what stands is held against that."""
    run = shop.cfy(*command)
    if run.code == 1 and "Please initialize a blueprint" in run.said:
        shop.forget()
        return Run(0, run.said, run.points)
    return run


def operation(name: str, **inputs: Any) -> Command:
    given = {"operation": name, "node_ids": ["machine"], "operation_kwargs": inputs, "allow_kwargs_override": True}
    return ("executions", "start", "execute_operation", "-b", DEPLOYMENT, "-p", json.dumps(given))


def workflow(name: str, **parameters: Any) -> Command:
    return ("executions", "start", name, "-b", DEPLOYMENT, "-p", json.dumps(parameters))


def updated(shop: Shop, name: str, **how: Any) -> Command:
    return workflow("update", blueprint=str(shop.blueprints[name]), **how)


def scaled(delta: int) -> Command:
    return workflow("scale", scalable_entity_name="machine", delta=delta)


UNINSTALL: Command = ("uninstall", "-b", DEPLOYMENT)
PHASES = {
    phase.name: phase
    for phase in (
        Phase("install", "empty", "installed", lambda shop: shop.install, go_on),
        Phase("install, and installed anew", "empty", "installed", lambda shop: shop.install, same),
        Phase("install, then uninstall", "empty", "empty", lambda shop: shop.install,
              lambda shop, _command, killed: uninstall_again(shop, UNINSTALL, killed), lambda _shop: [UNINSTALL]),
        Phase("uninstall", "installed", "empty", lambda _shop: UNINSTALL, uninstall_again),
        Phase("update", "installed", "updated", lambda shop: updated(shop, "changed"), same,
              lambda shop: [updated(shop, "cluster")]),
        Phase("update, with a restart", "installed", "larger",
              lambda shop: updated(shop, "larger", allow_restart=True), same,
              lambda shop: [updated(shop, "cluster", allow_restart=True)]),
        Phase("scale", "installed", "scaled", lambda _shop: scaled(1), same, lambda _shop: [scaled(-1)]),
        Phase("backup", "installed", "backed up", lambda _shop: operation(f"{BACKUP}.create", backup_point="one"), same,
              lambda _shop: [operation(f"{BACKUP}.delete", backup_point="one")]),
        Phase("restore", "backed up", "restored",
              lambda _shop: operation(f"{BACKUP}.restore", backup_point="one", backup_allow_stop=True), same),
        Phase("snapshot", "installed", "snapshot taken", lambda _shop: workflow("backup", snapshot_name="one"), same,
              lambda _shop: [workflow("remove_backup", snapshot_name="one")]),
        Phase("snapshot applied", "snapshot taken", "snapshot applied",
              lambda _shop: workflow("restore", snapshot_name="one"), same),
    )
}  # fmt: skip


@dataclass
class Ground:
    """The host between trials: which world it is in, and what each world looks like undisturbed."""

    shop: Shop
    at: str = "empty"
    known: dict[str, World] = field(default_factory=dict)
    points: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Once before anything counts: a new home gets its directories.
        self.shop.well(*self.shop.install)
        self.shop.well(*UNINSTALL)
        self.known["empty"] = self.shop.world()

    def reach(self, name: str) -> None:
        """Bring the host into a world, by undisturbed runs."""
        if self.at == name:
            return
        if name == "empty":
            self.shop.well(*UNINSTALL)
            # Backups outlive what they are of.
            shutil.rmtree(self.shop.home / "backups", ignore_errors=True)
            self.arrive("empty")
            return
        phase = next(phase for phase in PHASES.values() if phase.gives == name)
        self.reach(phase.needs)
        run = self.shop.well(*phase.command(self.shop))
        self.points[phase.name] = run.points
        self.arrive(phase.gives)

    def arrive(self, name: str) -> None:
        """The host is said to be in a world: hold it against what that looks like."""
        found = self.shop.world()
        known, deadline = self.known.setdefault(name, found), time.monotonic() + 20
        # What was killed and what ends with it go a moment later.
        while (wrong := differences(known, found)) and time.monotonic() < deadline:
            time.sleep(0.5)
            found = self.shop.world()
        if wrong:
            raise Failed(f"not as in an undisturbed run ({name}):\n" + "\n".join(wrong))
        self.at = name

    def learn(self, phase: Phase) -> list[str]:
        """Run a phase undisturbed; return its points."""
        if phase.name not in self.points:
            self.reach(phase.needs)
            self.points[phase.name] = self.shop.well(*phase.command(self.shop)).points
            if phase.gives != phase.needs:
                self.arrive(phase.gives)
            self.leave(phase)
        return self.points[phase.name]

    def leave(self, phase: Phase, by_uninstall: bool = False) -> None:
        """Undo a phase that is undone by commands; ``by_uninstall``: by one that must leave nothing."""
        commands = phase.back(self.shop)
        if commands and by_uninstall:
            self.reach("empty")
            return
        for command in commands:
            self.shop.well(*command)
        if commands:
            # Not the world before: what was done is remembered.
            self.arrive(f"{phase.needs}, after {phase.name}" if phase.gives != phase.needs else phase.needs)
            self.at = phase.needs

    def sweep(self) -> None:
        """Start anew from an empty host."""
        self.shop.sweep()
        self.at = "empty"

    def attempt(self, phase: Phase, harm: Harm, by_uninstall: bool) -> Run:
        """Harm a phase at a point, run it again, hold the result against an undisturbed run's; return the harmed run.

        ``by_uninstall``: then look at what an uninstall leaves; else only the phase is undone.

        Raises:
            Failed: the second run failed, or its result is another one; the harmed one failed without saying why.
        """
        self.reach(phase.needs)
        command = phase.command(self.shop)
        hurt = self.shop.cfy(*command, harm=harm)
        if hurt.code and not hurt.harmed:
            raise Failed(f"not harmed, but failed: {hurt.tail}")
        if hurt.code:
            done = phase.again(self.shop, command, hurt)
            if done.code:
                raise Failed(f"the second run failed ({done.code}): {done.tail}")
        elif phase.gives == phase.needs:
            self.leave(phase)
        self.arrive(phase.gives)
        if phase.gives != phase.needs:
            self.leave(phase, by_uninstall)
        if harm.full and hurt.code:
            explained(hurt)
        return hurt


def explained(run: Run) -> None:
    """A run that failed on a full disk must say so, in words."""
    if run.code < 0:
        raise Failed(f"it did not end ({run.code}): {run.tail}")
    if "Traceback" in run.said:
        raise Failed(f"a traceback: {run.tail}")
    if not ROOM.search(run.said):
        raise Failed(f"does not say where no space is left: {run.tail}")
