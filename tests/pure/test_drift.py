"""What was declared against what libvirt makes of it: no drift that is not there, each that is, named."""

from __future__ import annotations

from collections.abc import Iterator

import libvirt
import pytest
from lxml import etree

from cloudify_libvirt.core.drift.compare import LIVE, Difference, Subject, compare
from cloudify_libvirt.core.spec import only_copied
from tests.pure.goldens import SCHEMAS, Case, cases

# The test driver drops what is in name spaces of their own.
DROPPED = ("dnsmasq", "source.mount_options", "source.options")
# libvirt 9.0 refuses these, and writes the last one so that nobody can read it.
REFUSED = {"hardware_passt", "hardware_spice", "open_vswitch"}


@pytest.fixture(scope="module")
def connection() -> libvirt.virConnect:
    return libvirt.open("test:///default")


def differences(kind: str, declared: str, found: str, where: str = "config") -> list[Difference]:
    return compare(Subject(kind, "it"), declared, found, where)


def fields(kind: str, declared: str, found: str, where: str = "config") -> set[str]:
    return {one.field for one in differences(kind, declared, found, where)}


@pytest.mark.parametrize("case", cases(*SCHEMAS), ids=lambda case: f"{case.kind}-{case.path.stem}")
def test_a_document_has_no_drift_from_itself(case: Case) -> None:
    text = case.golden.read_text()
    assert differences(case.kind, text, text) == []


# Nobody's declaration: what libvirt hides, works out, or lets a guest's header say.
UNSEEN = ("graphics passwd", "vcpu placement", "target dev", "capacity ", "allocation ")
OTHER = {"yes": "no", "no": "yes", "on": "off", "off": "on"}


def changed(text: str) -> Iterator[tuple[str, str]]:
    """Each attribute and text of a document with another value, in turn: what it is, and the document then."""
    root = etree.fromstring(text.encode())
    for element in root.iter(etree.Element):
        tag = etree.QName(element).localname
        if "metadata" in (tag, *(etree.QName(one).localname for one in element.iterancestors())):
            continue
        for name, value in [*element.attrib.items(), *([("", element.text)] if (element.text or "").strip() else [])]:
            other = OTHER.get(value) or (str(int(value) + 1) if value.isdigit() else f"{value}x")
            if name == "unit":
                continue
            element.set(name, other) if name else setattr(element, "text", other)
            yield f"{tag} {name}", etree.tostring(root, encoding="unicode")
            element.set(name, value) if name else setattr(element, "text", value)


@pytest.mark.parametrize("case", cases(*SCHEMAS), ids=lambda case: f"{case.kind}-{case.path.stem}")
def test_whatever_of_a_document_is_changed_is_found(case: Case) -> None:
    text = case.golden.read_text()
    missed = [what for what, other in changed(text) if not differences(case.kind, text, other)]
    # A drive without a medium has no format, either.
    empty = ["disk type", "driver type"] if case.kind == "domain" else []
    assert [one for one in missed if not one.startswith(UNSEEN) and one not in empty] == []


@pytest.mark.parametrize(
    "case",
    [case for case in cases("domain", "network", "pool") if case.path.stem not in REFUSED],
    ids=lambda case: f"{case.kind}-{case.path.stem}",
)
def test_what_libvirt_makes_of_a_document_is_no_drift(case: Case, connection: libvirt.virConnect) -> None:
    text = case.golden.read_text()
    define = {"domain": "defineXML", "network": "networkDefineXML", "pool": "storagePoolDefineXML"}[case.kind]
    handle = getattr(connection, define)(text)
    try:
        there = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if case.kind == "domain" else 0)
    finally:
        handle.undefine()
    assert [one for one in differences(case.kind, text, there) if not one.field.startswith(DROPPED)] == []


DOMAIN = """<domain type='qemu'><name>vm</name><uuid>4DEA22B3-1d52-d8f3-2516-782e98ab3fa0</uuid>
<memory unit='MiB'>64</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
<features><acpi/></features><cpu mode='host-model'/><devices>
<disk type='file' device='disk'><driver type='qcow2'/><source file='/a'/><target dev='vda' bus='virtio'/></disk>
<interface type='network'><source network='net'/><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
<graphics type='vnc' port='-1' autoport='yes' passwd='secret'/></devices></domain>"""
# What libvirt says of the same guest while it runs.
RUNNING = """<domain type='qemu' id='3'><name>vm</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
<memory unit='KiB'>65536</memory><currentMemory unit='KiB'>65536</currentMemory><vcpu placement='static'>2</vcpu>
<resource><partition>/machine</partition></resource>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><boot dev='hd'/></os><features><acpi/></features>
<cpu mode='custom' match='exact'><model>EPYC</model></cpu><devices><emulator>/usr/bin/qemu</emulator>
<controller type='pci' index='0' model='pcie-root'/>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a' index='1'/>
<backingStore type='file'><source file='/base'/></backingStore><target dev='vda' bus='virtio'/><alias name='x'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='net' portid='p' bridge='br'/>
<target dev='vnet3'/><model type='virtio'/></interface><video><model type='vga'/></video>
<graphics type='vnc' port='5903' autoport='yes' listen='127.0.0.1'><listen type='address'/></graphics>
<memballoon model='virtio'/></devices><seclabel type='none'/></domain>"""


def test_a_running_guest_as_declared_has_no_drift() -> None:
    assert differences("domain", DOMAIN, RUNNING, LIVE) == []


EXTRA = "<disk type='file' device='disk'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>"


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("65536</currentMemory>", "60000</currentMemory>", "memory"),
        ("'static'>2<", "'static' current='1'>2<", "vcpu"),
        ("<boot dev='hd'/>", "<boot dev='hd'/><boot dev='network'/>", "boot.devices"),
        ("file='/a'", "file='/other'", "disks[vda].file"),
        ("<emulator>", f"{EXTRA}<emulator>", "disks[vdb]"),
        ("52:54:00:00:00:01", "52:54:00:00:00:02", "networks[52:54:00:00:00:01].mac"),
        ("network='net'", "network='else'", "networks[52:54:00:00:00:01].network"),
        ("<name>vm<", "<name>other<", "name"),
        ("device='disk'>", "device='lun'>", "disks[vda].device"),
    ],
)
def test_a_change_is_named_and_nothing_else(old: str, new: str, field: str) -> None:
    assert old in RUNNING
    assert fields("domain", DOMAIN, RUNNING.replace(old, new), LIVE) == {field}


def test_a_stored_definition_counts_where_a_running_guest_cannot_change() -> None:
    stored = RUNNING.replace("pc-q35-7.2", "pc-i440fx-7.2").replace("mode='custom'", "mode='host-model'")
    assert fields("domain", DOMAIN, stored) == {"machine"}


def test_nothing_declared_is_no_drift() -> None:
    more = RUNNING.replace("<devices>", "<description>new</description><devices>")
    assert differences("domain", DOMAIN, more) == differences("domain", DOMAIN, RUNNING)


def test_what_stands_for_a_disk_and_what_was_attached_by_us() -> None:
    found = RUNNING.replace("file='/a'", "file='/snapshot'").replace("<emulator>", f"{EXTRA}<emulator>")
    subject = Subject("domain", "it", {"disk vda": "image"}, {"/a": frozenset({"/snapshot"})}, frozenset({"disk vdb"}))
    assert compare(subject, DOMAIN, found, LIVE) == []
    assert [one.field for one in compare(Subject("domain", "it", {"disk vda": "image"}), DOMAIN, found, LIVE)] == [
        "image.file",
        "disks[vdb]",
    ]


NETWORK = """<network><name>n</name><bridge name='b' stp='off' delay='0'/><dns><host ip='10.0.0.9'>
<hostname>web</hostname></host></dns><ip address='10.0.0.1' netmask='255.255.255.0'><dhcp>
<range start='10.0.0.10' end='10.0.0.20'><lease expiry='2' unit='hours'/></range>
<host mac='52:54:00:AA:00:01' ip='10.0.0.5'/></dhcp></ip><ip family='ipv6' address='FD00::1' prefix='64'/></network>"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("netmask='255.255.255.0'", "prefix='24'", set()),
        ("expiry='2' unit='hours'", "expiry='7200' unit='seconds'", set()),
        ("FD00::1", "fd00:0:0::1", set()),
        ("52:54:00:AA:00:01", "52:54:00:aa:00:01", set()),
        ("</dhcp>", "<host mac='52:54:00:aa:00:09' ip='10.0.0.9'/></dhcp>", set()),
        ("end='10.0.0.20'", "end='10.0.0.30'", {"ips[10.0.0.1].ranges[10.0.0.10].end"}),
        ("<hostname>web<", "<hostname>db<", {"hosts[10.0.0.9].names"}),
        ("ip='10.0.0.5'", "ip='10.0.0.6'", {"ips[10.0.0.1].hosts[52:54:00:aa:00:01].ip"}),
        ("</network>", "<route address='10.9.0.0' prefix='16' gateway='10.0.0.2'/></network>", {"routes[10.9.0.0]"}),
    ],
)
def test_networks_are_compared_in_meaning(old: str, new: str, expected: set[str]) -> None:
    assert old in NETWORK
    assert fields("network", NETWORK, NETWORK.replace(old, new)) == expected


def test_a_volume_and_a_pool() -> None:
    volume = "<volume><name>v</name><capacity unit='MiB'>8</capacity><target><permissions><mode>0600</mode></permissions></target></volume>"  # noqa: E501
    assert fields("volume", volume, volume.replace("unit='MiB'>8", "unit='bytes'>8388608")) == set()
    assert fields("volume", volume, volume.replace(">8<", ">9<").replace("0600", "0644")) == {"size", "mode"}
    raw = "<volume><target><format type='raw'/></target></volume>"
    assert fields("volume", raw, raw.replace("raw", "iso")) == set()
    assert fields("volume", raw, raw.replace("raw", "qcow2")) == {"format"}
    pool = "<pool type='dir'><name>p</name><target><path>/a</path></target></pool>"
    assert fields("pool", pool, pool.replace("/a", "/b").replace("<target>", "<capacity>9</capacity><target>")) == {
        "path"
    }


def test_a_secret_is_never_said() -> None:
    changed = DOMAIN.replace("passwd='secret'", "").replace("type='vnc'", "type='spice'")
    assert differences("domain", DOMAIN, changed)
    assert "secret" not in str([one.plain() for one in differences("domain", DOMAIN, changed)])


CARD = {"network": "net"}
FILLED = {"network": "net", "mac": "52:54:00:00:00:01", "dev": "vnet0", "addrs": []}


@pytest.mark.parametrize(
    ("key", "value", "seen", "today", "expected"),
    [
        ("memory", 1, 1, 2, True),
        ("memory", 3, 1, 2, False),
        ("networks", [FILLED], [CARD], [{"network": "other"}], True),
        ("networks", [FILLED], [CARD], [CARD], False),
        ("networks", [{**FILLED, "model": "e1000"}], [CARD], [{"network": "other"}], False),
        ("networks", [FILLED, {"mac": "52:54:00:00:00:02"}], [CARD], [{"network": "other"}], True),
        ("networks", [{**FILLED, "mac": "52:54:00:00:00:09"}], [FILLED], [CARD], False),
    ],
)
def test_what_was_filled_in_is_no_other_value(
    key: str, value: object, seen: object, today: object, expected: bool
) -> None:
    assert only_copied(key, value, {key: seen}, {key: today}) is expected
