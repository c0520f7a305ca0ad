"""The life of one machine: install, stop, start, uninstall; nobody waits for what is in it.

Compared in the same run, taking turns, with virsh doing the same, and with cfy's own time: the same four workflows
with operations that do nothing. Run it inside a private libvirt host:

    scripts/lab --name bench exec env CLOUDIFY_LIBVIRT_LAB=bench .venv/bin/python -m bench.cycle
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import orchestration
from bench.figures import Row, median, s, table
from tests.real.conftest import ROOT, Cfy, virsh

NAME = "cycle"
# What the existing plugin takes for one such life at least, nearly all of it sleeps.
SLEEPS_S = 36.0
BLUEPRINT = """
tosca_definitions_version: cloudify_dsl_1_3
imports: [cloudify/types/types.yaml, 'plugin:cloudify-libvirt-plugin']
node_templates:
  machine:
    type: cloudify.libvirt.domain
    properties:
      params: {name: cycle, memory: 64 MiB, wait_for_ip: false, shutdown_timeout_s: 0}
"""


def with_cfy(cfy: Cfy, blueprint: Path, name: str) -> float:
    """Run the four workflows; return their seconds."""
    begin = time.monotonic()
    cfy("install", blueprint, "-b", name)
    for workflow in ("stop", "start"):
        cfy("executions", "start", workflow, "-b", name)
    cfy("uninstall", "-b", name)
    return time.monotonic() - begin


def with_virsh(definition: Path) -> float:
    """Do the same with nothing but virsh; return its seconds."""
    calls = [["define", str(definition)], ["start", NAME], ["destroy", NAME], ["start", NAME], ["destroy", NAME],
             ["undefine", "--nvram", NAME]]  # fmt: skip
    begin = time.monotonic()
    for call in calls:
        virsh(*call)
    return time.monotonic() - begin


def measure(rounds: int) -> list[Row]:
    """Return the row of the table."""
    with tempfile.TemporaryDirectory(prefix="bench-cycle-") as place:
        home, definition = Path(place) / "home", Path(place) / "domain.xml"
        home.mkdir()
        cfy, blueprint = Cfy(home), Path(place) / "blueprint.yaml"
        local_setup = [ROOT / ".venv/bin/cfy-libvirt", "local-setup"]
        subprocess.run(local_setup, env=cfy.environment, check=True, capture_output=True)
        blueprint.write_text(BLUEPRINT)
        cfy("install", blueprint, "-b", NAME)
        definition.write_text(virsh("dumpxml", "--inactive", NAME))
        cfy("uninstall", "-b", NAME)
        (nothing := Path(place) / "nothing").mkdir()
        noop = orchestration.write_blueprint("noop", 1, nothing)
        cfy.environment["PYTHONPATH"] = str(ROOT)
        turns = [(with_cfy(cfy, blueprint, NAME), with_virsh(definition), with_cfy(cfy, noop, "nothing"))
                 for _ in range(rounds)]  # fmt: skip
    ours, script, start_up = (median(list(column)) for column in zip(*turns, strict=True))
    compared = f"virsh {s(script)} + cfy's four start-ups {s(start_up)}"
    what = f"life of a machine: install, stop, start, uninstall (median of {rounds})"
    sleeps = f"the existing plugin's sleeps alone, {s(SLEEPS_S)}"
    return [Row(what, s(ours), compared, ours / (script + start_up)), Row("", "", sleeps, ours / SLEEPS_S)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    print(table(measure(parser.parse_args().rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
