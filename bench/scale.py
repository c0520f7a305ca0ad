"""How the cost of one object grows with their number: time, memory, calls of libvirt, bytes of state.

On libvirt's test driver: distinct node templates, paused domains, networks and volumes. On a real host (inside a lab):
paused QEMU guests with a disk each. Each size runs in a process of its own; the curves say what one object costs.

    .venv/bin/python -m bench.scale                                    the test driver
    scripts/lab --name scale exec .venv/bin/python -m bench.scale --real    and guests
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.counting import Cost, counted
from bench.figures import Row, ms, table

ROOT = Path(__file__).resolve().parents[1]
TEST, QEMU = "test:///default", "qemu:///system"
POOL = "/var/lib/libvirt/images/bench-scale"
SUSPEND = {"operation": "cloudify.interfaces.freeze.suspend"}
MODULES = ("domain", "network", "pool", "volume")
# The cost of one object at the largest size against the smallest but one; 1 is linear.
MOST_GROWTH = 1.5
NODES = {
    "domain": {"name": "scale-{{ number }}", "memory": "64 MiB", "wait_for_ip": False,
               "networks": [{"network": "default"}]},
    "network": {"name": "scale-{{ number }}", "cidr": "auto"},
    "volume": {"name": "scale-{{ number }}", "pool": "default-pool", "size": "1 MiB"},
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One kind of blueprint: its nodes per object, the sizes to measure, whether its domains are paused."""

    title: str
    kinds: tuple[str, ...]
    sizes: tuple[int, ...]
    distinct: bool = False
    pauses: bool = False
    uri: str = TEST


CURVES = {
    "templates": Curve("distinct node templates", ("domain",), (25, 50, 100, 200), distinct=True),
    "paused": Curve("paused domains", ("domain",), (25, 100, 250, 500), pauses=True),
    "parts": Curve("networks and volumes", ("network", "volume"), (25, 100, 250, 500)),
    "real": Curve("paused QEMU guests, each with a disk", ("domain",), (10, 25, 50, 100), pauses=True, uri=QEMU),
}


def node_templates(curve: Curve, count: int, image: Path) -> dict[str, Any]:
    """Return the node templates of one blueprint."""
    if curve.distinct:
        return {f"{kind}{i}": node(curve, kind, name=f"scale-{i}") for kind in curve.kinds for i in range(count)}
    scalable = {"capabilities": {"scalable": {"properties": {"default_instances": count}}}}
    if curve.uri == TEST:
        return {kind: node(curve, kind) | scalable for kind in curve.kinds}
    disk = {"image": str(image), "pool": "bench-scale", "shutdown_timeout_s": 0, "networks": []}
    at_once = {"interfaces": {"cloudify.interfaces.lifecycle": {"start": "libvirt.bench.paused.start"}}}
    pool = node(curve, "pool", name="bench-scale", path=POOL)
    stands_on = {"relationships": [{"type": "cloudify.relationships.depends_on", "target": "pool"}]}
    return {"pool": pool, "domain": node(curve, "domain", **disk) | scalable | stands_on | at_once}


def node(curve: Curve, kind: str, **params: object) -> dict[str, Any]:
    """Return one node template."""
    properties = {"libvirt_auth": curve.uri, "params": {**NODES.get(kind, {}), **params}}
    return {"type": f"cloudify.libvirt.{kind}", "properties": properties}


def environment(curve: Curve, count: int, place: Path) -> Any:
    """Parse the blueprint as cfy does in local mode, its state in files."""
    from cloudify.workflows import local

    from cloudify_libvirt.local_resolver import LocalResolver

    (directory := place / "blueprint").mkdir()
    image = place / "empty.raw"
    image.write_bytes(bytes(1024**2))
    document = {
        "tosca_definitions_version": "cloudify_dsl_1_3",
        "imports": ["cloudify/types/types.yaml", f"file:{ROOT / 'plugin.yaml'}"],
        "node_templates": node_templates(curve, count, image),
    }
    blueprint = directory / "blueprint.yaml"
    blueprint.write_text(yaml.safe_dump(document))
    storage = local.FileStorage(str(place / "state"))
    return local.init_env(str(blueprint), name="scale", storage=storage, resolver=LocalResolver())


def run(curve: Curve, count: int) -> dict[str, Cost]:
    """Install, pause and uninstall that many; return what each phase cost."""
    costs: dict[str, Cost] = {}
    for module in MODULES:
        importlib.import_module(f"cloudify_libvirt.{module}_tasks")
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_STATE_HOME"] = f"{place}/own"
        with counted() as costs["parse"]:
            env = environment(curve, count, Path(place))
        phases = ("install", *(["pause"] if curve.pauses and curve.uri == TEST else []), "uninstall")
        for phase in phases:
            workflow = {"pause": "execute_operation"}.get(phase, phase)
            parameters = SUSPEND if phase == "pause" else None
            with counted() as costs[phase], _undone(env):
                env.execute(workflow, parameters=parameters, task_retries=0, task_thread_pool_size=1)
            if curve.pauses and phase == phases[-2]:
                assert_paused(curve, count)
    return costs


@contextmanager
def _undone(env: Any) -> Iterator[None]:
    """Leave nothing on the host when a workflow fails."""
    from cloudify.exceptions import WorkflowFailed

    try:
        yield
    except WorkflowFailed:
        env.execute("uninstall", parameters={"ignore_failure": True})
        raise


def assert_paused(curve: Curve, count: int) -> None:
    """Look at the host itself."""
    import libvirt

    from cloudify_libvirt.core.session import connect

    domains = connect(curve.uri).connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED)
    paused = [domain for domain in domains if domain.name().startswith("scale-")]
    assert len(paused) == count, f"{len(paused)} of {count} domains are paused"


def sample(name: str, count: int) -> dict[str, dict[str, float]]:
    """Take one measurement in a fresh process; return {phase: what one object cost}."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.scale", "--sample", name, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=1800)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-3000:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(name: str, sizes: tuple[int, ...] = ()) -> list[Row]:
    """Measure one curve."""
    curve = CURVES[name]
    # On the test driver all work is this process's, and other work on the machine does not count.
    key = "cpu_seconds" if curve.uri == TEST else "seconds"
    seconds: dict[int, float] = {}
    memory: dict[int, float] = {}
    rows = []
    for size in sizes or curve.sizes:
        phases = sample(name, size)
        seconds[size] = sum(cost[key] for cost in phases.values())
        memory[size] = size * sum(cost["memory_kib"] for cost in phases.values())
        calls, written = (sum(cost[key] for cost in phases.values()) for key in ("calls", "written_bytes"))
        took = ", ".join(f"{phase} {ms(cost[key])}" for phase, cost in phases.items())
        more = f"{took}; {calls:.0f} calls of libvirt, {written / 1024:.0f} KiB written"
        rows.append(Row(f"scale: {size} {curve.title}", f"{ms(seconds[size])} each", more))
    return [*rows, *growth(curve, seconds, memory)]


def growth(curve: Curve, seconds: dict[int, float], memory: dict[int, float]) -> list[Row]:
    """Compare the largest size with the smallest but one, below which what is done once counts for much."""
    before, last = sorted(seconds)[min(1, len(seconds) - 1)], max(seconds)
    what = f"growth from {before} to {last} {curve.title}"
    return [
        Row(what, f"{ms(seconds[last])} each", f"{ms(seconds[before])} each", seconds[last] / seconds[before],
            MOST_GROWTH),
        *memory_growth(curve, memory),
    ]  # fmt: skip


def memory_growth(curve: Curve, memory: dict[int, float]) -> list[Row]:
    """Compare what one more takes (KiB) between the two largest sizes with what it takes from the smallest to there."""
    if len(memory) < 3:
        return []
    (first, *_, before, last) = sorted(memory)
    late = (memory[last] - memory[before]) / (last - before)
    early = (memory[before] - memory[first]) / (before - first)
    what = f"memory of one more of {curve.title}, from {before} to {last} ({memory[last] / 1024:.0f} MiB in all)"
    return [Row(what, f"{late:.0f} KiB", f"{early:.0f} KiB from {first} to {before}", late / early, MOST_GROWTH)]


def measure(names: list[str], sizes: tuple[int, ...] = ()) -> list[Row]:
    """Return the rows of the table."""
    return [row for name in names for row in rows_of(name, sizes)]


def main() -> int:
    """Measure, or take one sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true", help="on this host's QEMU, too")
    parser.add_argument("--curves", default="", help="only these, of: " + ", ".join(CURVES))
    parser.add_argument("--sizes", default="", help="instead of each curve's own")
    parser.add_argument("--sample", nargs=2, metavar=("CURVE", "COUNT"))
    options = parser.parse_args()
    if options.sample:
        logging.disable(logging.CRITICAL)
        name, count = options.sample[0], int(options.sample[1])
        costs = run(CURVES[name], count)
        print()
        print(json.dumps({phase: cost.per(count) for phase, cost in costs.items()}))
        return 0
    names = options.curves.split(",") if options.curves else [n for n in CURVES if options.real or n != "real"]
    rows = measure(names, tuple(int(size) for size in options.sizes.split(",") if size))
    print(table(rows))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
