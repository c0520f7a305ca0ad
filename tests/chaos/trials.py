"""Which points are tried, and what came of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import libvirt

from tests.chaos.fuse import READS
from tests.chaos.phases import FULL, PHASES, Ground, Phase
from tests.chaos.results import FAILED, NOT_REACHED, SURVIVED, Results, Trial, commit, product
from tests.chaos.shop import Harm

# How long after its beginning a call is cut in its middle, in turn: some calls are over by then.
MOMENTS_S = (0.0003, 0.001, 0.003, 0.01)
# What no full disk hinders.
FREE = re.compile(
    r"(unlink|remove|rmdir|rename|replace|chmod|utime|ftruncate|truncate) |start |vir\w+(Close|Deregister)"
)
Choice = Callable[[list[str]], list[int]]


def label(point: str) -> str:
    """A point without its time, and without what is in every run another: all of one kind have the same."""
    words = point.split(" ", 1)[1]
    words = re.sub(r"_[a-z0-9]{6}\b|tmp\w+|\b[0-9a-f]{12,}\b|\.\d+-\d+", "*", words)
    return re.sub(r" /\S*?([^/ ]+/[^/ ]+)$", r" \1", words)


def every(points: list[str]) -> list[int]:
    """All points, those that only read last: a kill there leaves what the one after the last change left."""
    return [*changes(points), *reads(points)]


def changes(points: list[str]) -> list[int]:
    """The points that do more than read."""
    return [number for number, point in enumerate(points, 1) if not READS.match(label(point))]


def reads(points: list[str]) -> list[int]:
    """The other points."""
    return [number for number, point in enumerate(points, 1) if READS.match(label(point))]


def writes(points: list[str]) -> list[int]:
    """The points that may need room on a disk: what only removes or renames needs none."""
    found = [number for number in changes(points) if number > 1 and not FREE.match(label(points[number - 1]))]
    # cfy's own first file, which it writes before anything else: its message has no name in it.
    return [number for number in found if not points[number - 2].endswith("/active.profile")]


def shard(share: str, choose: Choice) -> Choice:
    """Of what is chosen, one of several shares: 1/2 is the first half."""
    number, of = map(int, share.split("/"))

    def shared(points: list[str]) -> list[int]:
        chosen = choose(points)
        return chosen[len(chosen) * (number - 1) // of : len(chosen) * number // of]

    return shared


def some(most: int, of: Choice = changes) -> Choice:
    """At most so many points: of each kind the one in the middle, spread over the run."""

    def choose(points: list[str]) -> list[int]:
        kinds: dict[str, list[int]] = {}
        for number in of(points):
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

    def __str__(self) -> str:
        return (
            f"{self.points} points, {self.tried} tried ({self.in_the_middle} within a call), "
            f"{self.survived} survived, {self.seconds:.0f} s"
        )

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
    ground: Ground,
    names: tuple[str, ...],
    choose: Choice,
    say: Callable[[str], None],
    results: Results | None = None,
    full: bool = False,
) -> dict[str, Figures]:
    """Kill each of the phases, which follow each other, at the chosen points; go on after a failure.

    ``full``: in place of a kill the disk is full from the point on. What ``results`` has of this product is
    left out.
    """
    results = results or Results()
    phases = [PHASES[name] for name in names]
    figures = {title(phase, full): Figures() for phase in phases}
    waiting: dict[str, Iterator[int]] = {}
    for phase in phases:
        points = ground.learn(phase)
        figures[title(phase, full)].points = len(points)
        waiting[phase.name] = iter(results.left(title(phase, full), choose(points)))
    left = set(waiting)
    while left:
        for phase in phases:
            point = next(waiting[phase.name], None)
            if point is None:
                left.discard(phase.name)
                continue
            trial = _try(ground, phase, point, full)
            figures[title(phase, full)].count(trial)
            results.add(trial)
            say(f"{trial.phase} {trial.point} {trial.label}: {trial.outcome} {trial.seconds:.1f} s {trial.why}")
    return figures


def title(phase: Phase, full: bool) -> str:
    """Name what is tried, as results do."""
    return phase.name + FULL if full else phase.name


def _try(ground: Ground, phase: Phase, at: int, full: bool) -> Trial:
    points = ground.points[phase.name]
    begin, name = time.monotonic(), label(points[at - 1])
    cut, why, middle, changing = None, "", False, not READS.match(name)
    if name.startswith("vir") and changing and at % 2 and not full:
        cut = MOMENTS_S[at // 2 % len(MOMENTS_S)]
    # A disk is filled before what may need room.
    harmed_at = at - full
    try:
        hurt = ground.attempt(phase, Harm(harmed_at, cut, full), changing)
        if not hurt.harmed:
            # A run has some points more or less: then as far from the end as it is meant.
            nearer = max(1, harmed_at - len(points) + len(hurt.points))
            hurt = ground.attempt(phase, Harm(nearer, cut, full), changing)
        outcome = SURVIVED if hurt.harmed else NOT_REACHED
        middle = any(line.startswith("during ") for line in hurt.points[-1:])
    except (AssertionError, libvirt.libvirtError) as failure:
        outcome, why = FAILED, str(failure)
        ground.sweep()
    seconds = round(time.monotonic() - begin, 2)
    return Trial(title(phase, full), at, len(points), name, outcome, middle, seconds, commit(), product(), why)
