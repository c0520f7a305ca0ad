"""A cable between two labs: a veth pair that is never in the machine's own network namespace."""

from __future__ import annotations

import hashlib
import ipaddress
import subprocess

from lib_lab.model import Lab, LabError, NotRunningError
from lib_lab.outside import locked

# Source: RFC 2544; for tests, and routed nowhere.
NETWORK = ipaddress.ip_network("198.18.0.0/15")


def link(lab: Lab, other: Lab) -> int:
    """Connect both; print the lab's address and the other's. What is there stays; either's end takes it away."""
    first, second = sorted((lab, other), key=lambda one: one.home)
    if first == second:
        raise LabError(f"cannot link lab {lab.name} with itself; name another one")
    pids = running(first), running(second)
    with locked(first), locked(second):
        name, subnet = plan(first, second)
        if not has(pids[0], name):
            # Made inside, as it is seen from there: a pair that is made outside would be seen there for a moment.
            network(pids[0], "link", "add", name, "type", "veth", "peer", "name", name, "netns", str(pids[1]))
        for pid, address in zip(pids, (subnet[1], subnet[2]), strict=True):
            network(pid, "address", "replace", f"{address}/{subnet.prefixlen}", "dev", name)
            network(pid, "link", "set", name, "up")
    print(*((subnet[1], subnet[2]) if lab == first else (subnet[2], subnet[1])))
    return 0


def running(lab: Lab) -> int:
    pid = lab.pid()
    if pid is None:
        raise NotRunningError(f"cannot link lab {lab.name}: it is not running; run `up`")
    return pid


def plan(first: Lab, second: Lab) -> tuple[str, ipaddress.IPv4Network]:
    """Return the name of both ends and the subnet, the same at each call."""
    digest = hashlib.sha256(f"{first.home}\0{second.home}".encode()).digest()
    start = int(NETWORK.network_address) + 4 * (int.from_bytes(digest[:4]) % (NETWORK.num_addresses // 4))
    return f"lab-{digest[:4].hex()}", ipaddress.IPv4Network((start, 30))


def has(pid: int, name: str) -> bool:
    return enter(pid, "link", "show", name).returncode == 0


def network(pid: int, *arguments: str) -> None:
    done = enter(pid, *arguments)
    if done.returncode != 0:
        raise LabError(f"cannot link labs: ip {' '.join(arguments)}: {done.stderr.strip()}; end one of them, try again")


def enter(pid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["nsenter", f"--target={pid}", "--net", "--", "ip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
