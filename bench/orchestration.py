"""What orchestration costs per domain: install and uninstall on libvirt's test driver, nothing boots.

Compared in the same run, interleaved, each sample in a process of its own: the same blueprint with operations that
do nothing (the engine's own cost), and libvirt-python alone defining, starting, destroying and undefining the same XML.

    .venv/bin/python -m bench.orchestration [--sizes 1,10,100,500] [--rounds 5]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.figures import Row, median, ms, table
from cloudify_libvirt import local_engine

ROOT = Path(__file__).resolve().parents[1]
URI = "test:///default"
BLUEPRINT = """
tosca_definitions_version: cloudify_dsl_1_3
imports: [cloudify/types/types.yaml, 'PLUGIN']
node_templates:
  machine:
    type: cloudify.libvirt.domain
    capabilities: {scalable: {properties: {default_instances: COUNT}}}
    properties:
      libvirt_auth: 'test:///default'
      params:
        name: 'node-{{ number }}'
        memory: 64 MiB
        wait_for_ip: false
        networks: [{network: default}]
"""
MAC = re.compile(r"52:54:00(:[0-9a-f]{2}){3}")
# The last one: ours, on the engine as it is.
KINDS = ("raw", "noop", "product", "stock")


def write_blueprint(kind: str, count: int, directory: Path) -> Path:
    """Write the blueprint; for ``noop`` with the plugin's own types, whose operations do nothing."""
    plugin = directory / "types.yaml"
    text = (ROOT / "plugin.yaml").read_text()
    if kind == "noop":
        text = re.sub(r"libvirt\.cloudify_libvirt\.\w+\.\w+", "libvirt.bench.noop.nothing", text)
    plugin.write_text(text)
    blueprint = directory / "blueprint.yaml"
    blueprint.write_text(BLUEPRINT.replace("PLUGIN", f"file:{plugin}").replace("COUNT", str(count)))
    return blueprint


def run_engine(kind: str, count: int, xml_file: Path) -> dict[str, float]:
    """Install and uninstall as cfy does in local mode: one worker thread, state in files."""
    if kind == "noop":
        # The engine alone is measured as it is: ours, which it loads as an entry point, makes some of it cheaper.
        guard = sys.modules["cloudify_libvirt.local_guard"] = ModuleType("nothing")
        vars(guard)["plugin_version"] = lambda: ""
    from cloudify.workflows import local

    from cloudify_libvirt.local_resolver import LocalResolver

    # Loading modules is start-up, measured with cfy's own.
    importlib.import_module("bench.noop" if kind == "noop" else "cloudify_libvirt.domain_tasks")

    with tempfile.TemporaryDirectory() as place:
        (directory := Path(place) / "blueprint").mkdir()
        blueprint = write_blueprint(kind, count, directory)
        begin = time.perf_counter()
        env = local.init_env(
            str(blueprint), name="bench", storage=local.FileStorage(f"{place}/state"), resolver=LocalResolver()
        )
        env.execute("install", task_retries=0, task_thread_pool_size=1)
        installed = time.perf_counter()
        if kind != "noop":
            from cloudify_libvirt.core.session import connect

            domains = connect(URI).connection.listAllDomains()
            assert len(domains) == count + 1, "the test driver has one domain of its own"
            running = next(domain for domain in domains if domain.name() == "node-1")
            assert running.isActive()
            xml_file.write_text(running.XMLDesc(2))
        paused = time.perf_counter() - installed
        env.execute("uninstall", task_retries=0, task_thread_pool_size=1)
        end = time.perf_counter() - paused
        if kind != "noop":
            assert len(connect(URI).connection.listAllDomains()) == 1
    return {"install": installed - begin, "uninstall": end - installed, "total": end - begin}


def run_raw(count: int, xml_file: Path) -> dict[str, float]:
    """The same domains with nothing but libvirt-python."""
    import libvirt

    connection = libvirt.open(URI)
    text = xml_file.read_text()
    documents = [unique(text, number) for number in range(count)]
    begin = time.perf_counter()
    for document in documents:
        connection.defineXMLFlags(document, 0).create()
    installed = time.perf_counter()
    for number in range(count):
        domain = connection.lookupByName(f"node-{number + 1}")
        domain.destroy()
        domain.undefine()
    end = time.perf_counter()
    return {"install": installed - begin, "uninstall": end - installed, "total": end - begin}


def unique(xml: str, number: int) -> str:
    """Return the definition with a name, a UUID and a MAC of its own."""
    xml = re.sub("<name>.*?</name>", f"<name>node-{number + 1}</name>", xml, count=1)
    xml = re.sub("<uuid>.*?</uuid>", f"<uuid>{uuid.uuid4()}</uuid>", xml, count=1)
    return MAC.sub(f"52:54:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}", xml)


def sample(kind: str, count: int, xml_file: Path) -> dict[str, float]:
    """Take one measurement in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.orchestration", "--sample", kind, str(count), str(xml_file)]
    environment = {**os.environ, local_engine.SWITCH: "1" if kind == "stock" else ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stderr.splitlines()[-1])
    return found


def answer(kind: str, count: int, xml_file: Path) -> None:
    """Print one sample as the last line of stderr; the engine's log goes to stdout."""
    measured = run_raw(count, xml_file) if kind == "raw" else run_engine(kind, count, xml_file)
    print(json.dumps(measured), file=sys.stderr)


def measure(sizes: list[int], rounds: int) -> list[Row]:
    """Return the rows of the table."""
    rows: list[Row] = []
    per_domain: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as place:
        xml_file = Path(place) / "domain.xml"
        sample("product", 1, xml_file)
        for size in sizes:
            taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(rounds):
                for kind in KINDS:
                    taken[kind].append(sample(kind, size, xml_file)["total"])
            rows += rows_of(size, rounds, {kind: median(values) / size for kind, values in taken.items()})
            per_domain[size] = median(taken["product"]) / size
    return [*rows, *growth(per_domain)]


def rows_of(size: int, rounds: int, per: dict[str, float]) -> list[Row]:
    """Compare one size: at most three times libvirt, plus the engine; for information, with 3 x both together."""
    what = f"orchestration, {size} domain{'s' if size > 1 else ''} (median of {rounds})"
    measured, raw, engine = f"{ms(per['product'])} per domain", per["raw"], per["noop"]
    allowed, together = 3 * raw + engine, 3 * (raw + engine)
    return [
        Row(what, measured, f"3 x libvirt {ms(raw)} + engine {ms(engine)}", per["product"] / allowed, 1.0),
        Row("", "", f"3 x (libvirt + engine) = {ms(together)}", per["product"] / together),
        Row("", f"{ms(per['stock'])} on the engine as it is", "as above", per["stock"] / allowed),
    ]


def growth(per_domain: dict[int, float]) -> list[Row]:
    """Compare the largest size with the one before: linear means the same cost per domain."""
    if len(per_domain) < 2:
        return []
    before, last = sorted(per_domain)[-2:]
    ratio = per_domain[last] / per_domain[before]
    return [Row(f"growth, {last} domains", f"{ms(per_domain[last])} per domain",
                f"{ms(per_domain[before])} per domain of {before}", ratio, 1.2)]  # fmt: skip


def main() -> int:
    """Measure, or take one sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,10,100,500")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", nargs=3, metavar=("KIND", "COUNT", "XML"))
    options: Any = parser.parse_args()
    if options.sample:
        os.environ.setdefault("PYTHONPATH", str(ROOT))
        kind, count, xml_file = options.sample
        answer(kind, int(count), Path(xml_file))
        return 0
    rows = measure([int(size) for size in options.sizes.split(",")], options.rounds)
    print(table(rows))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
