"""What came of each trial, a line of JSON each, so that a run can be stopped, gone on with and shared between hosts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SURVIVED, FAILED, NOT_REACHED = "survived", "failed", "not reached"
# What decides how a killed run ends.
PRODUCT = ("cloudify_libvirt", "templates", "types", "plugin.yaml", "blueprints/cluster.yaml")


@dataclass(frozen=True)
class Trial:
    """One kill. ``of``: how many points the phase has; ``code``: the product that was killed (product())."""

    phase: str
    point: int
    of: int
    label: str
    outcome: str
    in_the_middle: bool
    seconds: float
    commit: str
    code: str
    why: str = ""


@dataclass
class Results:
    """A file of trials, to which several processes may write; without a path nothing is kept."""

    path: Path | None = None

    def add(self, trial: Trial) -> None:
        if self.path is None:
            return
        # One write of a file opened to append is not mixed with another's.
        line = (json.dumps(asdict(trial)) + "\n").encode()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)
        finally:
            os.close(file)

    def all(self) -> list[Trial]:
        if self.path is None or not self.path.exists():
            return []
        return [Trial(**json.loads(line)) for line in self.path.read_text().splitlines()]

    def left(self, phase: str, points: list[int]) -> list[int]:
        """Leave out the points that this product has come through, or not come to."""
        code = product()
        done = {
            trial.point
            for trial in self.all()
            if trial.phase == phase and trial.code == code and trial.outcome != FAILED
        }
        return [point for point in points if point not in done]


@cache
def product() -> str:
    """Return a short digest of the files that are tried."""
    digest = hashlib.sha256()
    for name in PRODUCT:
        place = ROOT / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def commit() -> str:
    """Return the checkout's commit, with a + where the product differs from it; "" where there is none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", *PRODUCT) else "")
