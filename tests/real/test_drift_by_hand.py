"""What virsh changes of a machine, a network and a volume that are declared in full: all of it is named, nothing else.

The machine has no operating system; test_drift.py has what a plain one's declaration says.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from cloudify_libvirt.core.spec.domain import DomainSpec
from cloudify_libvirt.core.spec.network import NetworkSpec
from cloudify_libvirt.core.spec.volume import VolumeSpec
from tests.driver.conftest import Node
from tests.real.conftest import IMAGES, QEMU, virsh
from tests.real.test_drift import LIFE, Change, Site

NAME, OFF = "byhand", "byhand-off"
MAC, MAC_OFF = "52:54:00:97:06:20", "52:54:00:97:06:21"
LIVE, CONFIG, HOST = "live", "config", "host"
WAYS = {LIVE: "--live", CONFIG: "--config"}
Told = set[tuple[str, str, str]]
FILTER = "<filter name='byhand-{}'><rule action='accept' direction='inout'/></filter>"
HOSTS = "<host mac='52:54:00:97:06:30' name='fixed' ip='10.97.6.{}'/>"
SRV = "<srv service='ldap' protocol='tcp' target='web' port='{}'/>"
CHANNEL = "<channel type='unix'><target type='virtio' name='org.example.0'/></channel>"
VSOCK = "<vsock model='virtio'><cid auto='yes'/></vsock>"


def declaration(image: Path, medium: Path) -> dict[str, dict[str, Any]]:
    """All that virsh has a command for; the machine that is off declares what not every kernel can do."""
    return {
        "net": {
            "name": NAME, "cidr": "10.97.6.0/24", "dev": "byhand0", "mtu": 1400, "mac": "52:54:00:97:06:01",
            "domain": "hand.example", "routes": [{"to": "10.97.66.0/24", "via": "10.97.6.5"}],
            "hosts": [{"mac": "52:54:00:97:06:30", "ip": "10.97.6.30", "name": "fixed"}],
            "portgroups": [{"name": "fast", "default": True}, {"name": "slow"}],
            "dns": {"txt": [{"name": "motto", "value": "one"}],
                    "srv": [{"service": "ldap", "protocol": "tcp", "target": "web", "port": 389}]},
        },
        "pool": {"name": NAME, "path": str(IMAGES / NAME)},
        "data": {"name": "byhand-data", "pool": NAME, "size": "8 MiB", "format": "raw"},
        "vm": {
            "name": NAME, "title": "declared", "memory": "64 MiB", "vcpu": 2, "max_vcpu": 3, "wait_for_ip": False,
            "shutdown_timeout_s": 0, "pool": NAME, "image": {"source": str(image), "size": "2 MiB"},
            "networks": [{"network": NAME, "mac": MAC, "link": "up", "filter": "byhand-a", "portgroup": "fast",
                          "boot_order": 2}],
            "disks": [{"volume": "byhand-data", "boot_order": 1, "iotune": {"total_iops": 5000}},
                      {"file": str(medium), "type": "raw", "device": "cdrom"}],
            "graphics": [{"type": "vnc", "password": "secret-1"}], "channels": [{"name": "org.example.0"}],
            "balloon": {"stats_period_s": 5}, "iothreads": 2, "events": {"crash": "destroy"}, "rng": "random",
            "cpu_tune": {"shares": 1024, "period_us": 100000, "quota_us": 90000, "emulator": "0-1",
                         "vcpus": [{"id": 0, "cpus": "0-1"}], "iothreads": [{"id": 1, "cpus": "0-1"}]},
            "memory_tune": {"soft_limit": "2 GiB"},
        },
        "vm-off": {
            "name": OFF, "memory": "64 MiB", "wait_for_ip": False,
            "networks": [{"network": NAME, "mac": MAC_OFF, "bandwidth": {"inbound": {"average_kb_s": 4000}}}],
            "memory_tune": {"hard_limit": "2 GiB"}, "block_tune": {"weight": 500},
            "numa_tune": {"mode": "strict", "nodes": "0"},
            "rng": "random", "tpm": True, "video": "virtio", "watchdog": "reset", "sound": "ich9",
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    IMAGES.mkdir(exist_ok=True)
    image, medium = IMAGES / "byhand.raw", IMAGES / "byhand.iso"
    for path in (image, medium):
        path.write_bytes(path.name.encode().ljust(1024 * 1024, b"\0"))
    filters = [libvirt.open(QEMU).nwfilterDefineXML(FILTER.format(name)) for name in "ab"]
    nodes = {
        name: Node(name=name, params=given, properties={"libvirt_auth": QEMU}, deployment="byhand")
        for name, given in declaration(image, medium).items()
    }
    found = Site(nodes)
    life = {name: LIFE["vm"][:2] if name == "vm-off" else LIFE[name] for name in nodes}
    try:
        for name, operations in life.items():
            for operation in operations:
                found.run(name, operation)
        yield found
    finally:
        found.run("vm", "stop")
        for name in reversed(life):
            found.run(name, "delete")
        for path in (image, medium):
            path.unlink()
        for one in filters:
            one.undefine()


def v(*lines: str) -> Change:
    def change() -> None:
        for line in lines:
            virsh(*shlex.split(line))

    return change


def fed(command: str, text: str) -> None:
    done = subprocess.run(["virsh", "-q", *shlex.split(command)], input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def there(path: str, where: str) -> str:
    """A device as virsh shows it, with its secrets."""
    more = ["--inactive"] if where == CONFIG else []
    found = etree.fromstring(virsh("dumpxml", NAME, "--security-info", *more)).find(f"devices/{path}")
    return str(etree.tostring(found, encoding="unicode"))


def device(path: str, old: str, new: str, where: str) -> Change:
    """Do as virsh update-device does, with one text in another's place."""

    def change() -> None:
        text = there(path, where)
        assert old in text, text
        fed(f"update-device {NAME} /dev/stdin {WAYS[where]}", text.replace(old, new))

    return change


def edit(prefix: str, old: str, new: str) -> Change:
    """Do as virsh edit does."""

    def change() -> None:
        secret = [] if prefix else ["--security-info"]
        text = virsh(f"{prefix}dumpxml", NAME, "--inactive", *secret)
        assert old in text, text
        fed(f"{prefix}define /dev/stdin", text.replace(old, new))

    return change


def seen(change: Change, undo: Change, node: str, field: str, *where: str) -> tuple[Change, Change, Told]:
    return change, undo, {(node, field, one) for one in where}


# A command, what is put into it, what was declared, and how that is called; each for the definition, and for the guest.
TUNED: dict[str, tuple[str, str, str]] = {
    f"desc {NAME} --title {{}}": ("changed", "declared", "title"),
    f"schedinfo {NAME} --set cpu_shares={{}}": ("512", "1024", "cpu_tune.shares"),
    f"schedinfo {NAME} --set vcpu_period={{}}": ("50000", "100000", "cpu_tune.period_us"),
    f"schedinfo {NAME} --set vcpu_quota={{}}": ("80000", "90000", "cpu_tune.quota_us"),
    f"vcpupin {NAME} 0 {{}}": ("1", "0-1", "cpu_tune.vcpus[0].cpus"),
    f"emulatorpin {NAME} {{}}": ("1", "0-1", "cpu_tune.emulator"),
    f"iothreadpin {NAME} 1 {{}}": ("1", "0-1", "cpu_tune.iothreads[1].cpus"),
    f"memtune {NAME} --soft-limit {{}}": ("1048576", "2097152", "memory_tune.soft_limit"),
    f"dommemstat {NAME} --period {{}}": ("9", "5", "balloon.stats_period_s"),
    f"set-lifecycle-action {NAME} crash {{}}": ("restart", "destroy", "events.crash"),
    f"blkdeviotune {NAME} vdb --total-iops-sec {{}}": ("700", "5000", "disks[0].iotune.total_iops_sec"),
}


def of_table(command: str, where: str) -> tuple[Change, Change, Told]:
    changed, declared, field = TUNED[command]
    change, undo = (v(f"{command.format(shlex.quote(value))} {WAYS[where]}") for value in (changed, declared))
    return seen(change, undo, "vm", field, where)


def swapped(path: str, old: str, new: str, field: str, where: str) -> tuple[Change, Change, Told]:
    return seen(device(path, old, new, where), device(path, new, old, where), "vm", field, where)


def edited(prefix: str, old: str, new: str, *fields: str) -> tuple[Change, Change, Told]:
    node = "net" if prefix else "vm"
    return edit(prefix, old, new), edit(prefix, new, old), {(node, field, CONFIG) for field in fields}


def listed(section: str, before: str, after: str, field: str) -> tuple[Change, Change, Told]:
    """One entry of the network for another, "": none; in what runs and in the definition."""

    def put(old: str, new: str) -> Change:
        words = [("delete", old), ("add", new)]
        return v(
            *(f"net-update {NAME} {verb} {section} {shlex.quote(xml)} --live --config" for verb, xml in words if xml)
        )

    return seen(put(before, after), put(after, before), "net", field, LIVE, CONFIG)


def limit(value: int) -> Change:
    return v(f"domiftune {OFF} {MAC_OFF} --inbound {value} --config")


def link(state: str, more: str = "") -> Change:
    return v(f"domif-setlink {NAME} {MAC} {state} {more}")


def plugged(verb: str, text: str, where: str) -> Change:
    return lambda: fed(f"{verb}-device {NAME} /dev/stdin {WAYS[where]}", text)


def taken_out(tag: str) -> tuple[Change, Change, Told]:
    """Do as virsh edit does with a device of the machine that is off, and save the text of before in the end."""
    before: list[str] = []

    def change() -> None:
        before.append(virsh("dumpxml", OFF, "--inactive"))
        root = etree.fromstring(before[-1])
        (found,) = root.iterfind(f"devices/{tag}")
        found.getparent().remove(found)
        fed("define /dev/stdin", etree.tostring(root, encoding="unicode"))

    return seen(change, lambda: fed("define /dev/stdin", before[-1]), "vm-off", tag, CONFIG)


DEVICES = ("rng", "tpm", "video", "watchdog", "sound")
RANGE = "<range start='10.97.6.2' end='10.97.6.254'/>"
CHANGES: dict[str, tuple[Change, Change, Told]] = {
    **{f"{command} {where}": of_table(command, where) for command in TUNED for where in WAYS},
    "statistics off": seen(v(f"dommemstat {NAME} --period 0 --live --config"),
                           v(f"dommemstat {NAME} --period 5 --live --config"),
                           "vm", "balloon.stats_period_s", LIVE, CONFIG),
    "I/O thread added": seen(v(f"iothreadadd {NAME} 3 --live"), v(f"iothreaddel {NAME} 3 --live"),
                             "vm", "iothreads", LIVE),
    "I/O thread removed": seen(v(f"iothreaddel {NAME} 2 --live --config"), v(f"iothreadadd {NAME} 2 --live --config"),
                               "vm", "iothreads", LIVE, CONFIG),
    "limits of another kind": (v(f"blkdeviotune {NAME} vdb --total-iops-sec 0 --read-bytes-sec 9000000 --live"),
                               v(f"blkdeviotune {NAME} vdb --read-bytes-sec 0 --total-iops-sec 5000 --live"),
                               {("vm", f"disks[0].iotune.{what}_sec", LIVE) for what in ("total_iops", "read_bytes")}),
    "cable out": seen(link("down"), link("up"), "vm", "networks[0].link", LIVE),
    "cable out at the next start": seen(link("down", "--config"), link("up", "--config"),
                                        "vm", "networks[0].link", CONFIG),
    "filter": swapped("interface", "byhand-a", "byhand-b", "networks[0].filter", LIVE),
    "filter stored": swapped("interface", "byhand-a", "byhand-b", "networks[0].filter", CONFIG),
    "filter taken away": seen(device("interface", '<filterref filter="byhand-a"/>', "", LIVE),
                              device("interface", "<link", '<filterref filter="byhand-a"/><link', LIVE),
                              "vm", "networks[0].filter", LIVE),
    "group of ports": swapped("interface", 'portgroup="fast"', 'portgroup="slow"', "networks[0].portgroup", CONFIG),
    "boot order of a disk": edited("", "<boot order='1'/>", "<boot order='7'/>", "disks[0].boot_order"),
    "boot order of a card": swapped("interface", '"2"', '"5"', "networks[0].boot_order", CONFIG),
    "password": swapped("graphics", "secret-1", "secret-2", "graphics[0].password", LIVE),
    "password stored": swapped("graphics", "secret-1", "secret-2", "graphics[0].password", CONFIG),
    # Saving an editor's text without the secrets in it is enough.
    "password taken away": seen(edit("", " passwd='secret-1'", ""),
                                device("graphics", 'type="vnc"', 'type="vnc" passwd="secret-1"', CONFIG),
                                "vm", "graphics[0].password", CONFIG),
    "channel": seen(plugged("detach", CHANNEL, CONFIG), plugged("attach", CHANNEL, CONFIG),
                    "vm", "channels[org.example.0]", CONFIG),
    "device beside": seen(plugged("attach", VSOCK, CONFIG), plugged("detach", VSOCK, CONFIG), "vm", "vsock[0]", CONFIG),
    "source of random numbers": edited("", ">/dev/urandom<", ">/dev/random<", "rng.path"),
    "maximum of vCPUs": seen(v(f"setvcpus {NAME} 4 --maximum --config"), v(f"setvcpus {NAME} 3 --maximum --config"),
                             "vm", "max_vcpu", CONFIG),
    "disk grown": seen(v(f"blockresize {NAME} vdb 9M"), v(f"blockresize {NAME} vdb 8M"), "data", "size", HOST),
    "root disk grown": seen(v(f"blockresize {NAME} vda 3M"), v(f"blockresize {NAME} vda 2M"), "vm", "image.size", HOST),
    "saved": seen(v(f"managedsave {NAME}"), v(f"start {NAME}"), "vm", "state", HOST),
    "another name": seen(v(f"domrename {OFF} byhand-x"), v(f"domrename byhand-x {OFF}"), "vm-off", "name", CONFIG),
    "rate of a card": seen(limit(5000), limit(4000), "vm-off", "networks[0].bandwidth.inbound.average", CONFIG),
    "rate of a card taken away": seen(limit(0), limit(4000), "vm-off", "networks[0].bandwidth.inbound", CONFIG),
    "most memory": seen(v(f"memtune {OFF} --hard-limit 1048576 --config"),
                        v(f"memtune {OFF} --hard-limit 2097152 --config"), "vm-off", "memory_tune.hard_limit", CONFIG),
    "weight of disks": seen(v(f"blkiotune {OFF} --weight 300 --config"), v(f"blkiotune {OFF} --weight 500 --config"),
                            "vm-off", "block_tune.weight", CONFIG),
    "mode of NUMA": seen(v(f"numatune {OFF} --mode preferred --config"), v(f"numatune {OFF} --mode strict --config"),
                         "vm-off", "numa_tune.mode", CONFIG),
    "text": listed("dns-txt", "<txt name='motto' value='one'/>", "<txt name='motto' value='two'/>",
                   "dns.txt[motto].value"),
    "text taken away": listed("dns-txt", "<txt name='motto' value='one'/>", "", "dns.txt[motto]"),
    "text beside": listed("dns-txt", "", "<txt name='other' value='x'/>", "dns.txt[other]"),
    "service": listed("dns-srv", SRV.format(389), SRV.format(390), "dns.srv[ldap].port"),
    "service taken away": listed("dns-srv", SRV.format(389), "", "dns.srv[ldap]"),
    "default group": listed("portgroup", "<portgroup name='fast' default='yes'/>", "<portgroup name='fast'/>",
                            "portgroups[fast].default"),
    "group taken away": listed("portgroup", "<portgroup name='slow'/>", "", "portgroups[slow]"),
    "group beside": listed("portgroup", "", "<portgroup name='other'/>", "portgroups[other]"),
    "fixed address": listed("ip-dhcp-host", HOSTS.format(30), HOSTS.format(31),
                            "ips[10.97.6.1].hosts[52:54:00:97:06:30].ip"),
    "fixed address taken away": listed("ip-dhcp-host", HOSTS.format(30), "",
                                       "ips[10.97.6.1].hosts[52:54:00:97:06:30]"),
    "range taken away": listed("ip-dhcp-range", RANGE, "", "ips[10.97.6.1].ranges[10.97.6.2]"),
    "MTU": edited("net-", "<mtu size='1400'/>", "<mtu size='1300'/>", "mtu"),
    "route": edited("net-", "gateway='10.97.6.5'", "gateway='10.97.6.6'", "routes[10.97.66.0].via"),
    "another route": edited("net-", "route address='10.97.66.0'", "route address='10.97.67.0'",
                            "routes[10.97.66.0]", "routes[10.97.67.0]"),
    "address of the bridge": edited("net-", "52:54:00:97:06:01", "52:54:00:97:06:02", "mac"),
    "domain": edited("net-", "hand.example", "foot.example", "domain"),
    "bridge": edited("net-", "bridge name='byhand0'", "bridge name='byhand1'", "dev"),
    "spanning tree": edited("net-", "stp='off'", "stp='on'", "stp"),
    "gateway": edited("net-", "10.97.6.1'", "10.97.6.3'", "ips[10.97.6.1]", "ips[10.97.6.3]"),
    **{f"{tag} taken out": taken_out(tag) for tag in DEVICES},
    # What runs lost its bridge, and gets it back when it is started again.
    "network inactive": seen(v(f"net-destroy {NAME}"), v(f"net-start {NAME}", f"destroy {NAME}", f"start {NAME}"),
                             "net", "state", HOST),
    # It keeps what it was given: the last of all.
    "vCPU plugged in": seen(v(f"setvcpus {NAME} 3 --live"), v(f"destroy {NAME}", f"start {NAME}"), "vm", "vcpu", LIVE),
}  # fmt: skip


def test_what_is_declared_in_full_has_no_drift(site: Site) -> None:
    assert site.drift() == set()


@pytest.mark.parametrize("name", CHANGES)
def test_what_virsh_changed_is_named_and_nothing_else(name: str, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    change, undo, expected = CHANGES[name]
    change()
    try:
        assert site.drift() == expected
        assert {field for _node, field, _where in expected} <= set(named(caplog))
    finally:
        undo()
    assert site.drift() == set()
    assert "secret-" not in caplog.text


def named(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """What the log says of fields; what a password was nobody records, so that it may be the user's own wish."""
    for record in caplog.records:
        kind, _object, rest = record.getMessage().split(": ", 2)
        if kind == ("wanted" if ".password" in rest else "drift"):
            yield rest.split(" ")[0].rstrip(":")


def test_what_is_named_are_the_words_of_blueprints() -> None:
    words = {"vm": DomainSpec, "vm-off": DomainSpec, "net": NetworkSpec, "data": VolumeSpec}
    for _change, _undo, expected in CHANGES.values():
        for node, field, _where in expected - {("vm", "state", HOST), ("net", "state", HOST)}:
            assert field.replace("[", ".").split(".")[0] in words[node].model_fields, field
