"""libvirt's XML into facts; the documents are as libvirt 9.0 writes them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.errors import BadDocument

DOMAIN = """
<domain type='kvm' id='3'>
  <name>a&amp;b &lt;ü&gt;</name>
  <!-- <devices><interface type='network'><mac address='00:00:00:00:00:00'/></interface></devices> -->
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><source file='/pool/root.qcow2' index='2'/><target dev='vda' bus='virtio'/>
      <backingStore type='file'><source file='/pool/base'/></backingStore></disk>
    <disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb'/></disk>
    <disk type='block' device='disk'><source dev='/dev/sdx'/><target dev='vdc'/></disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <disk type='file'><source file='/x y&amp;z'/><target dev='vdd'/></disk>
    <filesystem type='mount'><source dir='/pool/rootfs'/><target dir='/'/></filesystem>
    <filesystem type='ram'><source usage='1' units='KiB'/><target dir='/tmp'/></filesystem>
    <interface type='network'><mac address='52:54:00:AA:00:01'/>
      <source network='net' portid='x' bridge='br9'/><target dev='vnet7'/></interface>
    <interface type='bridge'><mac address='52:54:00:aa:00:02'/><source bridge='br0'/></interface>
    <interface type='user'/>
    <serial type='pty'><log file='/log/serial.log' append='off'/><target port='0'/></serial>
    <console type='pty'><log file='/log/console.log'/><target type='serial' port='0'/></console>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
  </devices>
</domain>
"""


def test_domain() -> None:
    facts = parse.domain(DOMAIN)
    assert (facts.domain_type, facts.machine) == ("kvm", "pc-q35-7.2")
    assert facts.console_log == "/log/console.log"
    assert facts.agent_connected
    assert facts.filesystems == ("/pool/rootfs",)
    assert [(d.path, d.target, d.device, d.pool, d.volume) for d in facts.disks] == [
        ("/pool/root.qcow2", "vda", "disk", "", ""),
        ("", "vdb", "disk", "p", "v"),
        ("/dev/sdx", "vdc", "disk", "", ""),
        ("", "sda", "cdrom", "", ""),
        ("/x y&z", "vdd", "disk", "", ""),
    ]
    assert [(c.mac, c.network, c.bridge, c.host_device) for c in facts.interfaces] == [
        ("52:54:00:aa:00:01", "net", "br9", "vnet7"),
        ("52:54:00:aa:00:02", "", "br0", ""),
        ("", "", "", ""),
    ]


def test_a_bare_domain() -> None:
    facts = parse.domain("<domain type='lxc'><name>x</name></domain>")
    assert facts == parse.DomainFacts((), (), "", False, (), "lxc", "")


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("<target name='org.qemu.guest_agent.0' state='connected'/>", True),
        ("<target name='org.qemu.guest_agent.0' state='disconnected'/>", False),
        ("<target name='org.qemu.guest_agent.0'/>", False),
        ("<target name='com.redhat.spice.0' state='connected'/>", False),
    ],
)
def test_agent(channel: str, expected: bool) -> None:
    facts = parse.domain(f"<domain><devices><channel>{channel}</channel></devices></domain>")
    assert facts.agent_connected is expected


def test_the_serial_log_where_the_console_has_none() -> None:
    facts = parse.domain("<domain><devices><serial><log file='/s'/></serial><console/></devices></domain>")
    assert facts.console_log == "/s"


@pytest.mark.parametrize("body", ["<domain type='&e;'/>", "<pool><target><path>&e;</path></target></pool>", "<pool/>"])
def test_a_doctype_is_refused_and_no_entity_expanded(body: str) -> None:
    xml = f"<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/hostname'>]>{body}"
    with pytest.raises(BadDocument) as caught:
        parse.document(xml)
    assert Path("/etc/hostname").read_text().strip() not in str(caught.value)


def test_network() -> None:
    facts = parse.network(
        "<network><name>n</name><forward mode='nat'/><bridge name='virbr5'/>"
        "<ip address='10.1.2.1' netmask='255.255.255.0'><dhcp><range start='10.1.2.2' end='10.1.2.9'/>"
        "<host mac='52:54:00:AA:00:01' ip='10.1.2.5' name='one'/><host mac='52:54:00:aa:00:02' ip='10.1.2.6'/>"
        "</dhcp></ip><ip family='ipv6' address='fd00:1::1' prefix='64'/><ip/></network>"
    )
    assert (facts.bridge, facts.forward, facts.dhcp) == ("virbr5", "nat", True)
    assert facts.subnets == (ipaddress.ip_network("10.1.2.0/24"), ipaddress.ip_network("fd00:1::/64"))
    assert [(h.mac, h.ip, h.name) for h in facts.hosts] == [
        ("52:54:00:aa:00:01", "10.1.2.5", "one"),
        ("52:54:00:aa:00:02", "10.1.2.6", ""),
    ]


def test_a_bare_network() -> None:
    facts = parse.network("<network><name>n</name></network>")
    assert (facts.bridge, facts.forward, facts.subnets, facts.dhcp, facts.hosts) == ("", "", (), False, ())


def test_volume() -> None:
    facts = parse.volume(
        "<volume type='file'><name>v</name><capacity unit='bytes'>1048576</capacity>"
        "<allocation unit='bytes'>196616</allocation><target><path>/p/v</path><format type='qcow2'/></target>"
        "<backingStore><path>/p/base</path><format type='raw'/></backingStore></volume>"
    )
    assert facts == parse.VolumeFacts("/p/v", "qcow2", "/p/base", 1048576, 196616, backing_format="raw")
    assert parse.volume("<volume><name>v</name></volume>") == parse.VolumeFacts("", "raw", "", 0, 0)


def test_pool() -> None:
    xml = "<pool type='logical'><name>p</name><target><path> /dev/vg </path></target></pool>"
    assert parse.pool(xml) == parse.PoolFacts("logical", "/dev/vg", (), "")
    assert parse.pool("<pool type='rbd'><name>p</name></pool>") == parse.PoolFacts("rbd", "", (), "")
    xml = (
        "<pool type='fs'><name>p</name><source><device path='/dev/sdb'/><format type='xfs'/></source>"
        "<target><path>/srv</path></target></pool>"
    )
    assert parse.pool(xml) == parse.PoolFacts("fs", "/srv", ("/dev/sdb",), "xfs")


def test_pool_types() -> None:
    types = "<pool type='dir' supported='yes'/><pool type='rbd' supported='no'/>"
    assert parse.pool_types(f"<storagepoolCapabilities>{types}</storagepoolCapabilities>") == {"dir"}


CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch></cpu>
  <secmodel><model>apparmor</model><doi>0</doi></secmodel>
  <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+108</baselabel>
    <baselabel type='qemu'>+64055:+108</baselabel></secmodel></host>
  <guest><os_type>hvm</os_type><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest>
  <guest><os_type>hvm</os_type><arch name='armv7l'><domain type='qemu'/></arch></guest></capabilities>"""


def test_capabilities() -> None:
    assert parse.guest_types(CAPABILITIES) == {"qemu", "kvm"}
    assert parse.host_arch(CAPABILITIES) == "x86_64"
    assert parse.hypervisor_user(CAPABILITIES) == (64055, 108)


@pytest.mark.parametrize("label", ["", "<baselabel>system_u:object_r</baselabel>", "<baselabel/>"])
def test_capabilities_without_a_user(label: str) -> None:
    xml = f"<capabilities><host><secmodel><model>dac</model>{label}</secmodel></host></capabilities>"
    assert parse.hypervisor_user(xml) is None
