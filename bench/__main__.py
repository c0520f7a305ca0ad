"""All measurements in one table, printed and written to docs/performance.md: make bench."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import time
from pathlib import Path

from bench import backup, boot, cycle, images, orchestration, scale, storage
from bench.figures import Row, table

PAGE = Path(__file__).resolve().parents[1] / "docs/performance.md"
TEXT = """# How fast it is

Written by `make bench` on {date}: {machine}. Every ratio compares two things measured in the same run, taking turns;
the guests ran under {accelerator}. The machine had a load of {load} at the start. The run took {minutes:.0f} minutes.

{table}
What is compared:

- **hello**: `cfy install blueprints/hello.yaml` to the first ssh login, against `bench/bare.sh`: virsh, qemu-img,
  genisoimage and ssh do the same with the same guest. cfy's start-up is an install whose operations do nothing.
- **cluster**: how much longer ten machines take than one, against how much longer the script takes.
- **life of a machine**: four workflows on one machine that holds no system, against virsh doing the same. The second
  line compares it with the time that the existing plugin takes for one such life at least: 36 s, nearly all sleeps.
- **lease written to operation returned**: from the time of dnsmasq's status file (looked at every 5 ms) to the end of
  the operation that waited for the address; below zero where the host's ARP table knew it before the lease was written.
- **orchestration**: install and uninstall on libvirt's test driver, where nothing boots. *engine*: the same node type
  with operations that do nothing and store nothing. *libvirt*: libvirt-python alone defines, starts, destroys and
  undefines the same XML. The first line of each size has the bound, the others are for information. The engine is
  measured as it comes; with the plugin its parser, state files, messages and task graph do the same with less work
  (`local_engine.py`; `CLOUDIFY_LIBVIRT_STOCK_ENGINE=1` leaves it as it is), so a part of what our operations cost is
  paid with what the engine saves. The last line of each size has ours on the engine as it is.
- **growth**: the cost per domain at the largest size against the size before; 1 is linear.
- **image**: an image from a web server of this machine into an empty cache, its own start-up included, against a shell
  script that does the same. Each is fetched and its checksum compared; what is packed is unpacked.
- **volume**: contents through libvirt's streams with holes kept, against the same call with everything sent; and a
  deletion that looks at every domain, snapshot and overlay of the host first.
- **backup**: a running guest with 1 MiB changed since the last point, against a full point of the same guest.
- **scale**: what one object costs of many: distinct node templates, paused domains, networks with volumes on the test
  driver (CPU time of our process), and paused QEMU guests (wall time). The bounds are on the cost at the largest
  size against the second, and on the memory of one more between the two largest against below.

`bench/orchestration.py`, `bench/boot.py`, `bench/images.py`, `bench/scale.py` and `bench/storage.py` run alone, too,
with fewer or more rounds.
"""


def machine() -> str:
    """Describe the machine without naming it."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    cpu = model or platform.machine()
    return (
        f"{os.cpu_count()} CPUs ({cpu}), {memory_kib / 1024**2:.0f} GiB of memory, Python {platform.python_version()}"
    )


def accelerator() -> str:
    """Name what runs the guests here."""
    from cloudify_libvirt.core.host import accelerator as chosen
    from cloudify_libvirt.core.session import connect

    choice = chosen.choose(connect("qemu:///system"), "auto")
    return f"{'KVM' if choice.domain_type == 'kvm' else 'TCG'} ({choice.why})"


def page(rows: list[Row], load: str, minutes: float) -> str:
    """Return the page."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return TEXT.format(date=date, machine=machine(), accelerator=accelerator(), load=load, minutes=minutes,
                       table=table(rows))  # fmt: skip


def main() -> int:
    """Measure everything; the exit code tells whether all bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of each, and no page")
    options = parser.parse_args()
    begin, load = time.monotonic(), f"{os.getloadavg()[0]:.1f}"
    rounds, cluster_rounds = (1, 1) if options.quick else (5, 5)
    rows = boot.measure(rounds, cluster_rounds)
    rows += cycle.measure(rounds)
    rows += orchestration.measure([1, 10, 100, 500], rounds)
    rows += images.measure(rounds)
    rows += storage.measure(rounds)
    rows += backup.measure(rounds)
    rows += scale.measure(list(scale.CURVES), (5, 10) if options.quick else ())
    print(table(rows))
    if not options.quick:
        PAGE.write_text(page(rows, load, (time.monotonic() - begin) / 60))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
