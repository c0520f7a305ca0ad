"""Print the table of docs/reliability.md from files of results: python -m tests.chaos.figures FILE..."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.chaos.phases import FULL
from tests.chaos.results import FAILED, NOT_REACHED, SURVIVED, Results, Trial

# What is killed, and what is run after it; by phase.
LINES = {
    "install": ("`install`", "go on, or the same again"),
    "uninstall": ("`uninstall`", "the same again"),
    "install, and installed anew": ("`install`", "`install` again"),
    "install, then uninstall": ("`install`", "`uninstall`"),
    "update": ("workflow `update`: description and autostart", "the same again"),
    "update, with a restart": ("workflow `update`: vCPUs, with a restart", "the same again"),
    "scale": ("workflow `scale` by one machine", "the same again"),
    "backup": ("`libvirt_backup.create`, both machines", "the same again"),
    "restore": ("`libvirt_backup.restore`, both machines", "the same again"),
    "snapshot": ("workflow `backup` (snapshots and definitions)", "the same again"),
    "snapshot applied": ("workflow `restore` (from these)", "the same again"),
}
# What is done to them, by the end of a trial's phase.
HARMS = {
    "": "| what is killed | what is run after it | points | tried | survived | within a call | each |",
    FULL: "| what has no room | what is run after it | points | tried | survived | within a call | each |",
}


def last(trials: list[Trial]) -> list[Trial]:
    """Return the last trial of each point."""
    return list({trial.point: trial for trial in trials}.values())


def row(words: tuple[str, str], trials: list[Trial]) -> str:
    """Return the line of one phase."""
    found = [trial for trial in last(trials) if trial.outcome != NOT_REACHED]
    survived = sum(trial.outcome == SURVIVED for trial in found)
    middle = sum(trial.in_the_middle for trial in found)
    # What a later point is not come to for has been tried as far as there is something to try.
    points = max(trial.of for trial in trials)
    each = sum(trial.seconds for trial in trials) / len(trials)
    killed, after = words
    return f"| {killed} | {after} | {points} | {len(found)} | {survived} | {middle} | {each:.1f} s |"


def table(trials: list[Trial]) -> str:
    """Return the whole table, what was not survived, and of what all this is."""
    by_phase: dict[str, list[Trial]] = {}
    for trial in trials:
        by_phase.setdefault(trial.phase, []).append(trial)
    lines = []
    for harm, head in HARMS.items():
        rows = [row(words, by_phase[phase + harm]) for phase, words in LINES.items() if phase + harm in by_phase]
        lines += [head, "|---|---|---|---|---|---|---|", *rows, ""] if rows else []
    for phase, found in by_phase.items():
        failed = [trial for trial in last(found) if trial.outcome == FAILED]
        lines += [f"not survived: {phase} {one.point} {one.label}: {one.why[:300]}" for one in failed]
        missed = sum(trial.outcome == NOT_REACHED for trial in last(found))
        lines += [f"{phase}: {missed} points were not come to, as that run had fewer"] if missed else []
    lines.append(f"{sum(one.seconds for one in trials) / 3600:.1f} hours of trials, of "
                 + ", ".join(sorted({f"{one.commit} ({one.code})" for one in trials})))  # fmt: skip
    return "\n".join(lines)


def main(files: list[str]) -> int:
    """Print; the exit code is 1 when a last trial of a point failed."""
    trials = [trial for file in files for trial in Results(Path(file)).all()]
    print(table(trials))
    by_point = {(trial.phase, trial.point): trial for trial in trials}
    return int(any(trial.outcome == FAILED for trial in by_point.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
