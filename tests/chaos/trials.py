"""Which points are tried, and what came of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.chaos.fuse import READS
from tests.chaos.phases import PHASES, Failed, Ground, Phase

# How long after its beginning a call is cut in its middle, in turn: some calls are over by then.
MOMENTS_S = (0.0003, 0.001, 0.003, 0.01)
Choice = Callable[[list[str]], list[int]]


def label(point: str) -> str:
    """A point without its time, and without what is in every run another: all of one kind have the same."""
    words = point.split(" ", 1)[1]
    words = re.sub(r"_[a-z0-9]{6}\b|tmp\w+|\b[0-9a-f]{12,}\b|\.\d+-\d+", "*", words)
    return re.sub(r" /\S*?([^/ ]+/[^/ ]+)$", r" \1", words)


def every(points: list[str]) -> list[int]:
    return list(range(1, len(points) + 1))


def some(most: int) -> Choice:
    """At most so many points: of each kind that changes something the one in the middle, spread over the run."""

    def choose(points: list[str]) -> list[int]:
        kinds: dict[str, list[int]] = {}
        for number, point in enumerate(points, 1):
            if not READS.match(label(point)):
                kinds.setdefault(label(point), []).append(number)
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


def tour(ground: Ground, names: tuple[str, ...], choose: Choice, say: Callable[[str], None]) -> dict[str, Figures]:
    """Kill each of the phases, which follow each other, at the chosen points; go on after a failure."""
    phases = [PHASES[name] for name in names]
    figures = {phase.name: Figures() for phase in phases}
    waiting: dict[str, Iterator[tuple[int, str]]] = {}
    for phase in phases:
        points = ground.learn(phase)
        figures[phase.name].points = len(points)
        waiting[phase.name] = iter([(number, points[number - 1]) for number in choose(points)])
    left = set(waiting)
    while left:
        for phase in phases:
            point = next(waiting[phase.name], None)
            if point is None:
                left.discard(phase.name)
            else:
                _try(ground, phase, *point, figures[phase.name], say)
    return figures


def _try(ground: Ground, phase: Phase, at: int, point: str, figures: Figures, say: Callable[[str], None]) -> None:
    begin, cut = time.monotonic(), None
    if label(point).startswith("vir") and not READS.match(label(point)) and at % 2:
        cut = MOMENTS_S[at // 2 % len(MOMENTS_S)]
    said = f"{phase.name} {at} {label(point)}"
    try:
        killed = ground.attempt(phase, at, cut)
        figures.tried += killed.killed
        figures.survived += killed.killed
        figures.unreached += not killed.killed
        figures.in_the_middle += any(line.startswith("during ") for line in killed.points[-1:])
        say(f"{said}: {'survived' if killed.killed else 'not reached'} {time.monotonic() - begin:.1f} s")
    except Failed as failure:
        figures.tried += 1
        figures.failures.append(f"{said}: {failure}")
        say(f"{said}: FAILED {failure}")
        ground.sweep()
    figures.seconds += time.monotonic() - begin
