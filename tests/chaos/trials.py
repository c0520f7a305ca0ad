"""Which points are tried, and what came of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import libvirt

from tests.chaos.fuse import READS
from tests.chaos.phases import PHASES, Ground, Phase
from tests.chaos.results import FAILED, NOT_REACHED, SURVIVED, Results, Trial, commit, product

# How long after its beginning a call is cut in its middle, in turn: some calls are over by then.
MOMENTS_S = (0.0003, 0.001, 0.003, 0.01)
Choice = Callable[[list[str]], list[int]]


def label(point: str) -> str:
    """A point without its time, and without what is in every run another: all of one kind have the same."""
    words = point.split(" ", 1)[1]
    words = re.sub(r"_[a-z0-9]{6}\b|tmp\w+|\b[0-9a-f]{12,}\b|\.\d+-\d+", "*", words)
    return re.sub(r" /\S*?([^/ ]+/[^/ ]+)$", r" \1", words)


def every(points: list[str]) -> list[int]:
    """All points, those that only read last: a kill there leaves what the one after the last change left."""
    changing = changes(points)
    return [*changing, *sorted({*range(1, len(points) + 1)} - {*changing})]


def changes(points: list[str]) -> list[int]:
    """The points that do more than read."""
    return [number for number, point in enumerate(points, 1) if not READS.match(label(point))]


def shard(share: str, choose: Choice) -> Choice:
    """Of what is chosen, one of several shares: 1/2 is the first half."""
    number, of = map(int, share.split("/"))

    def shared(points: list[str]) -> list[int]:
        chosen = choose(points)
        return chosen[len(chosen) * (number - 1) // of : len(chosen) * number // of]

    return shared


def some(most: int) -> Choice:
    """At most so many points: of each kind that changes something the one in the middle, spread over the run."""

    def choose(points: list[str]) -> list[int]:
        kinds: dict[str, list[int]] = {}
        for number in changes(points):
            kinds.setdefault(label(points[number - 1]), []).append(number)
        found = sorted(numbers[len(numbers) // 2] for numbers in kinds.values())
        step = max(1.0, len(found) / most)
        return [found[int(index * step)] for index in range(min(most, len(found)))]

    return choose


@dataclass
class Figures:
    """What one phase went through."""

    points: int = 0
    tried: int = 0
    survived: int = 0
    unreached: int = 0
    in_the_middle: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def count(self, trial: Trial) -> None:
        reached = trial.outcome != NOT_REACHED
        self.tried += reached
        self.unreached += not reached
        self.survived += trial.outcome == SURVIVED
        self.in_the_middle += trial.in_the_middle
        self.seconds += trial.seconds
        if trial.outcome == FAILED:
            self.failures.append(f"{trial.phase} {trial.point} {trial.label}: {trial.why}")


def tour(
    ground: Ground, names: tuple[str, ...], choose: Choice, say: Callable[[str], None], results: Results | None = None
) -> dict[str, Figures]:
    """Kill each of the phases, which follow each other, at the chosen points; go on after a failure.

    What ``results`` has of this product already is left out.
    """
    results = results or Results()
    phases = [PHASES[name] for name in names]
    figures = {phase.name: Figures() for phase in phases}
    waiting: dict[str, Iterator[int]] = {}
    for phase in phases:
        points = ground.learn(phase)
        figures[phase.name].points = len(points)
        waiting[phase.name] = iter(results.left(phase.name, choose(points)))
    left = set(waiting)
    while left:
        for phase in phases:
            point = next(waiting[phase.name], None)
            if point is None:
                left.discard(phase.name)
                continue
            trial = _try(ground, phase, point)
            figures[phase.name].count(trial)
            results.add(trial)
            say(f"{trial.phase} {trial.point} {trial.label}: {trial.outcome} {trial.seconds:.1f} s {trial.why}")
    return figures


def _try(ground: Ground, phase: Phase, at: int) -> Trial:
    points = ground.points[phase.name]
    begin, name = time.monotonic(), label(points[at - 1])
    cut, why, middle = None, "", False
    if name.startswith("vir") and not READS.match(name) and at % 2:
        cut = MOMENTS_S[at // 2 % len(MOMENTS_S)]
    try:
        killed = ground.attempt(phase, at, cut)
        if not killed.killed:
            # A run has some points more or less: then as far from the end as it is meant.
            killed = ground.attempt(phase, max(1, at - len(points) + len(killed.points)), cut)
        outcome = SURVIVED if killed.killed else NOT_REACHED
        middle = any(line.startswith("during ") for line in killed.points[-1:])
    except (AssertionError, libvirt.libvirtError) as failure:
        outcome, why = FAILED, str(failure)
        ground.sweep()
    seconds = round(time.monotonic() - begin, 2)
    return Trial(phase.name, at, len(points), name, outcome, middle, seconds, commit(), product(), why)
