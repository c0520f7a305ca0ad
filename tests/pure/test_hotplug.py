"""Which device of a definition is the one that is asked for; and what an update makes of a wish."""

from __future__ import annotations

import pytest
from lxml import etree

from cloudify_libvirt.core.update.hotplug import Device, same
from cloudify_libvirt.core.update.sizes import Pending, Size, completed, read

USB = "<hostdev mode='subsystem' type='usb'>{}<source><vendor id='{}'/><product id='0xbeef'/></source>{}</hostdev>"
DISK = "<disk type='{}' device='disk'><source {}/><target dev='{}' bus='virtio'/></disk>"
CARD = "<interface type='network'><mac address='{}'/><source network='{}'/></interface>"
RNG = "<rng model='virtio'><backend model='random'>{}</backend></rng>"


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        (DISK.format("file", "file='/a'", "vdb"), DISK.format("block", "dev='/b'", "vdb"), True),
        (DISK.format("file", "file='/a'", "vdb"), DISK.format("file", "file='/a'", "vdc"), False),
        (CARD.format("52:54:00:AA:00:01", "a"), CARD.format("52:54:00:aa:00:01", "b"), True),
        (CARD.format("52:54:00:aa:00:01", "a"), CARD.format("52:54:00:aa:00:02", "a"), False),
        (USB.format("", "0x1234", ""), USB.format("", "0x1234", "<alias name='x'/><address type='usb'/>"), True),
        (USB.format("", "0x0234", ""), USB.format("", "0x234", ""), True),
        (USB.format("", "0x1234", ""), USB.format("", "0x1235", ""), False),
        (
            USB.format("", "0x1234", "<alias name='hostdev7'/>"),
            USB.format("", "0x1234", "<alias name='hostdev0'/>"),
            True,
        ),
        (
            USB.format("", "0x1234", "<alias name='ua-my'/>"),
            USB.format("", "0x1234", "<alias name='hostdev0'/>"),
            False,
        ),
        (RNG.format("/dev/random"), RNG.format("/dev/random"), True),
        (RNG.format("/dev/random"), RNG.format("/dev/urandom"), False),
        (RNG.format("/dev/random"), CARD.format("52:54:00:aa:00:01", "a"), False),
    ],
)
def test_the_same_device(wanted: str, there: str, expected: bool) -> None:
    assert same(etree.fromstring(wanted), etree.fromstring(there)) is expected


def test_a_device_is_called_by_what_names_it() -> None:
    assert Device.read(DISK.format("file", "file='/a'", "vdb")).label == "disk vdb"
    assert Device.read(CARD.format("52:54:00:AA:00:01", "a")).label == "interface 52:54:00:aa:00:01"
    assert Device.read(RNG.format("/dev/random")).label == "rng"


NOW = Size(memory_kib=100, max_memory_kib=200, vcpus=1, max_vcpus=2)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Size(), NOW),
        (Size(memory_kib=150), Size(150, 200, 1, 2)),
        (Size(memory_kib=300), Size(300, 300, 1, 2)),
        (Size(max_memory_kib=50), Size(50, 50, 1, 2)),
        (Size(memory_kib=300, max_memory_kib=250), Size(300, 300, 1, 2)),
        (Size(vcpus=2), Size(100, 200, 2, 2)),
        (Size(vcpus=4), Size(100, 200, 4, 4)),
        (Size(vcpus=1), NOW),
    ],
)
def test_a_wish_is_completed_with_what_is_there(wish: Size, expected: Size) -> None:
    assert completed(wish, NOW) == expected


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<memory unit='KiB'>200</memory>", Size(200, 200, 1, 1)),
        ("<memory>200</memory><currentMemory>100</currentMemory><vcpu current='1'>2</vcpu>", NOW),
    ],
)
def test_sizes_of_a_definition(inner: str, expected: Size) -> None:
    assert read(f"<domain>{inner}</domain>") == expected


def test_what_is_pending_is_said_in_units() -> None:
    assert str(Pending("memory", 2048, 1024, "why")) == "memory of 2 MiB (now 1 MiB): why"
    assert str(Pending("max_memory", 2048, 1024, "why")) == "a maximum of memory of 2 MiB (now 1 MiB): why"
    assert str(Pending("vcpu", 2, 1, "why")) == "2 vCPUs (now 1): why"
