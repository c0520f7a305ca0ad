"""A machine on a network with both families and an MTU, installed as users do."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path

from tests.real.conftest import Cfy, Host, public_key, ssh
from tests.real.nodes import blueprint, node
from tests.real.test_identity import properties


def test_both_families(cfy: Cfy, clean_host: Host, tiny: Path, key: Path, tmp_path: Path) -> None:
    network = node("network", name="dual", cidr="auto", cidr6="auto", mtu=1400, domain="lab.example")
    pool = node("pool", name="dual")
    machine = node(
        "domain", "network", "pool", name="dual", memory="128 MiB", image=str(tiny), pool="dual",
        networks=[{"network": "dual", "mtu": 1400}], ssh_user="root",
        cloud_init={"ssh_authorized_keys": [public_key(key)]},
    )  # fmt: skip
    cfy("install", blueprint(tmp_path, "dual", network=network, pool=pool, machine=machine), "-b", "dual")
    runtime = {one["node_id"]: one["runtime_properties"] for one in cfy.instances("dual")}
    cidr, cidr6 = runtime["network"]["cidr"], runtime["network"]["cidr6"]
    assert ipaddress.ip_address(runtime["machine"]["ip"]) in ipaddress.ip_network(cidr)
    six = ipaddress.ip_network(cidr6)
    gateway = str(six.network_address + 1)
    # The router's advertisement may come after the IPv4 lease.
    said = ssh(key, runtime["machine"]["ip"], f"cat /sys/class/net/eth0/mtu; "
               f"for n in $(seq 20); do ping6 -c 1 -W 3 {gateway} && break; sleep 1; done; "
               f"ip -6 addr show dev eth0 scope global; nslookup dual.lab.example")  # fmt: skip
    assert said.splitlines()[0] == "1400"
    assert str(six.network_address).removesuffix("::") in said and " 0% packet loss" in said
    assert runtime["machine"]["ip"] in said.split("dual.lab.example")[-1]
    deadline = time.monotonic() + 120
    while not (told := properties(cfy, "dual", "machine"))["ipv6_addresses"] and time.monotonic() < deadline:
        cfy("executions", "start", "pull", "-b", "dual")
    assert [ipaddress.ip_address(one) in six for one in told["ipv6_addresses"]] == [True]
    assert told["ip"] == told["public_ip_address"] == runtime["machine"]["ip"], "IPv4 goes first"
    seen = [(entry["addr"], entry["type"]) for entry in told["networks"][0]["addresses"]]
    assert seen == [(told["ip"], 0), (told["ipv6_addresses"][0], 1)] and told["ipv6_addresses"][0] in said
    cfy.uninstall("dual")
