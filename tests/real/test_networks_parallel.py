"""Sixteen processes make a network each at the same moment, again and again: no bridge or subnet is taken twice."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier

from cloudify_libvirt import network_tasks
from tests.driver.conftest import Node
from tests.real.conftest import Host
from tests.real.netlab import QEMU

PROCESSES, ROUNDS, TIMEOUT_S, ROUND_S = 16, 100, 120, 20
# What libvirt starts for a network's guests takes it most of the time, and is no part of the race.
QUICK = {"mode": "open", "dhcp": False, "dns": {"enable": False}}

Made = tuple[str, str, str]
_barrier: list[Barrier] = []


def prepare(barrier: Barrier) -> None:
    _barrier.append(barrier)


def install(number: int, rounds: int) -> list[Made]:
    """Make and remove a network in each round; all want the same subnet first, as their UUIDs begin alike."""
    made = []
    for turn in range(rounds):
        uuid = f"{turn:08x}-0000-4000-8000-{turn:010x}{number:02x}"
        params = {"name": f"crowd-{number}", "cidr": "auto", "cidr6": "auto", "instance_uuid": uuid, **QUICK}
        node = Node(name="crowd", index=number, params=params, properties={"libvirt_auth": QEMU}, deployment="crowd")
        _barrier[0].wait(TIMEOUT_S)
        node.run(network_tasks.validate)
        node.run(network_tasks.create)
        made.append((node.runtime["bridge"], node.runtime["cidr"], node.runtime["cidr6"]))
        _barrier[0].wait(TIMEOUT_S)
        node.run(network_tasks.delete)
    return made


def test_sixteen_networks_at_once(clean_host: Host) -> None:
    context = multiprocessing.get_context("spawn")
    begin, limit_s = time.monotonic(), TIMEOUT_S + ROUNDS * ROUND_S
    with context.Pool(PROCESSES, prepare, (context.Barrier(PROCESSES),)) as pool:
        calls = [(number, ROUNDS) for number in range(PROCESSES)]
        answers = pool.starmap_async(install, calls, chunksize=1).get(limit_s)
    print(f"{ROUNDS} rounds of {PROCESSES} networks took {time.monotonic() - begin:.1f} s")
    for turn in range(ROUNDS):
        for part in range(3):
            values = [made[turn][part] for made in answers]
            assert len(set(values)) == PROCESSES, f"round {turn}: {sorted(values)}"
