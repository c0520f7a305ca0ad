"""Hardware by typed parameters: what goes together, what follows by itself, what is refused and how."""

from typing import Any

import goldens
import pytest
from lxml import etree

from cloudify_libvirt.core.document.render import TemplateSource, attributes, on_off, render
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec import DomainFacts, parse_spec, template_variables
from cloudify_libvirt.core.spec.fields import members
from cloudify_libvirt.core.spec.hardware_variables import serial_logs


def spec(**params: Any) -> Any:
    return parse_spec("domain", {"name": "vm", "memory": "1 GiB", **params}, node="web", extra=False)


def document(**params: Any) -> Any:
    found = spec(**params)
    facts = DomainFacts(goldens.UUID, "qemu", "q35", disks=found.disks, interfaces=found.networks)
    return etree.fromstring(render(TemplateSource(), template_variables(found, facts), schema="domain", node="web"))


def refused(**params: Any) -> str:
    with pytest.raises(InvalidSpec) as caught:
        spec(**params)
    return str(caught.value)


TWO = {"vcpu": 2}
MORE = {"max_memory": "2 GiB"}
SHARE = {"filesystems": [{"source": "/srv", "target": "a"}]}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"machine": "q35", "disks": [{"file": "/a", "bus": "ide"}]}, "params.disks[0].bus of node web: a q35 has no"),
        ({"machine": "pc", "firmware": {"secure_boot": True}}, "secure boot needs machine: q35"),
        ({"firmware": {"type": "bios", "secure_boot": True}}, "secure boot and UEFI variables need type: uefi"),
        ({"firmware": {"secure_boot": True}, "features": {"smm": False}}, "secure boot needs smm"),
        ({"firmware": "coreboot"}, "params.firmware.type of node web: must be one of 'bios' or 'uefi'"),
        ({"cpu": {"topology": {"cores": 3}}, **TWO}, "it has places for 3 vCPUs, vcpu is 2"),
        ({"cpu": {"topology": {"cores": 3}}, "max_vcpu": 4, **TWO}, "it has places for 3 vCPUs, max_vcpu is 4"),
        ({"cpu": "Nehalem", "cpu_mode": "maximum"}, "exclude each other"),
        ({"cpu": {"migratable": True}}, "it is of cpu_mode: host-passthrough and maximum"),
        ({"max_vcpu": 1, **TWO}, "max_vcpu is less than vcpu"),
        ({"cpu_tune": {"vcpus": [{"id": 2, "cpus": "0"}]}, **TWO}, "there is no vCPU 2: they are 0 to 1"),
        ({"cpu_tune": {"vcpus": [{"id": 0, "cpus": "0"}] * 2}}, "the same id is there twice"),
        ({"cpu_tune": {"iothreads": [{"id": 1, "cpus": "0"}]}}, "there is no I/O thread 1: iothreads is 0"),
        ({"cpu_tune": {"cpus": "a-b"}}, "must be a set such as 0-3,5"),
        ({"disks": [{"file": "/a", "iothread": 2}], "iothreads": 1}, "there is no I/O thread 2: iothreads is 1"),
        ({"numa_cells": [{"cpus": "0", "memory": "512 MiB"}]}, "the cells together have 512 MiB, the domain 1 GiB"),
        ({"numa_cells": [{"cpus": "0", "memory": "1 GiB"}], **TWO}, "the cells have vCPUs 0, and must"),
        ({"numa_cells": [{"cpus": "0", "memory": "512 MiB"}] * 2}, "vCPU 0 is in two cells"),
        ({"memory_slots": 2}, "params.memory_slots of node web: it needs max_memory"),
        ({"memory_slots": 257, **MORE}, "params.memory_slots of node web: must be 1 to 256"),
        ({"memory_slots": 0, **MORE}, "params.memory_slots of node web: must be 1 to 256"),
        (
            {"memory_slots": 2, "numa_cells": [{"cpus": "0", "memory": "2 GiB"}], **MORE},
            "it brings a NUMA cell of its own; leave numa_cells out",
        ),
        ({"memory_slots": 2, "domain_type": "lxc", **MORE}, "a domain of type lxc takes no DIMMs"),
        ({"memory_slots": 2, "machine": "microvm", **MORE}, "a microvm takes no DIMMs; use machine: q35 or pc"),
        ({"memory_slots": 2, "features": {"acpi": False}, **MORE}, "guests hear of DIMMs by ACPI"),
        ({"memory_slots": 2, "max_memory": "1048577 KiB"}, "params.max_memory of node web: with memory_slots it is"),
        ({"memory_slots": 2, "memory": "1001 KiB", **MORE}, "params.memory of node web: with memory_slots it is"),
        ({"memory_backing": {"access": "private"}, **SHARE}, "virtiofs and vhostuser need shared memory"),
        ({"memory_backing": {"source": "anonymous"}, **SHARE}, "memory that can be shared"),
        ({"filesystems": [{"source": "/a", "target": "a", "readonly": True}]}, "virtiofs cannot; mount it with -o ro"),
        ({"filesystems": [{"source": "/a", "target": "a", "driver": "9p", "cache": "none"}]}, "9p has no cache"),
        ({"networks": [{"bridge": "br0", "vlan": 42}]}, "a plain Linux bridge takes no VLAN from libvirt"),
        ({"networks": [{"user": True, "vlan": 42}]}, "VLANs are of Open vSwitch bridges"),
        ({"networks": [{"network": "n", "forwards": [{"host_port": 80}]}]}, "ports are forwarded by passt"),
        ({"networks": [{"network": "n", "macvtap": "eth0"}]}, "network and macvtap exclude each other"),
        ({"networks": [{"macvtap": "eth0", "ip": "10.0.0.5"}]}, "a fixed address needs a libvirt network"),
        ({"disks": [{"file": "/a", "io": "native"}]}, "set cache: none or directsync"),
        ({"disks": [{"file": "/a", "block": "/dev/b"}]}, "several sources"),
        ({"disks": [{"file": "/a", "bus": "scsi", "iothread": 1}], "iothreads": 1}, "queues are of virtio"),
        ({"disks": [{"file": "/a", "type": "qcow2", "shareable": True}]}, "cannot write to one qcow2 file"),
        ({"disks": [{"file": "/a", "iotune": {"total_iops": 1, "read_iops": 1}}]}, "total_iops excludes read_iops"),
        ({"disks": [{"file": "/a", "boot_order": 1}, {"file": "/b", "boot_order": 1}]}, "1 is there twice"),
        ({"disks": [{"file": "/a", "boot_order": 1}], "boot": {"devices": ["hd"]}}, "exclude each other"),
        ({"graphics": [{"type": "vnc", "listen": "0.0.0.0"}]}, "others can reach it: set a password"),
        ({"graphics": [{"type": "vnc", "password": "123456789"}]}, "VNC uses 8 bytes of a password at most"),
        ({"graphics": [{"type": "dbus", "port": 5900}]}, "dbus has no socket, address, port or password"),
        ({"vsock": {"cid": 2}}, "must be 3 to 4294967294"),
        ({"tpm": {"version": "1.2"}}, "version 1.2 has the model tpm-tis"),
        ({"clock": {"offset": "timezone"}}, "belong together"),
        ({"redirections": [{}]}, "spicevmc comes from viewers of spice"),
        ({"boot": {"cmdline": "quiet"}}, "belong to a kernel"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(params: dict[str, Any], words: str) -> None:
    assert words in refused(**params)


def test_a_password_is_never_shown() -> None:
    secret = "hunter2-which-is-long"
    assert secret not in refused(graphics=[{"type": "vnc", "password": secret}])
    assert "hunter2\\n" not in refused(graphics=[{"type": "vnc", "password": "hunter2\n"}])
    assert "hunter2" not in repr(spec(graphics=[{"type": "vnc", "password": "hunter2"}]))


@pytest.mark.parametrize("share", [SHARE, {"networks": [{"vhostuser": "/run/a.sock"}]}])
def test_memory_is_shared_with_who_needs_it(share: dict[str, Any]) -> None:
    root = document(**share)
    assert root.find("memoryBacking/source").get("type") == "memfd"
    assert root.find("memoryBacking/access").get("mode") == "shared"
    asked = document(memory_backing={"hugepages": True, "source": "file"}, **share)
    assert asked.find("memoryBacking/source").get("type") == "file"
    assert asked.find("memoryBacking/access").get("mode") == "shared"


def test_nothing_of_it_is_there_unless_it_is_asked_for() -> None:
    root = document()
    for path in ("memoryBacking", "cputune", "numatune", "iothreads", "os/firmware", "devices/tpm"):
        assert root.find(path) is None, path
    bios = document(firmware="bios")
    assert bios.find("os").attrib == {} and bios.find("os/firmware") is None


@pytest.mark.parametrize("asked", [{"tpm": "no"}, {"tpm": False}, {"vsock": "false"}])
def test_no_means_no(asked: dict[str, Any]) -> None:
    root = document(**asked)
    assert root.find("devices/tpm") is None and root.find("devices/vsock") is None


def test_a_usb_controller_is_there_for_what_needs_one() -> None:
    def controllers(**params: Any) -> list[str]:
        return [c.get("model", "") for c in document(**params).iterfind("devices/controller[@type='usb']")]

    assert controllers() == ["none"]
    assert controllers(inputs=["tablet"]) == ["none"]
    assert controllers(inputs=[{"type": "tablet", "bus": "usb"}]) == []
    assert controllers(redirections=[{}], graphics=["spice"]) == []


def test_serial_lines_have_ports_of_their_own() -> None:
    asked = spec(serials=[{"type": "file"}, {"log": True}], devices=[{"type": "serial", "source_path": "/dev/ttyS0",
                                                                      "target_port": 1}])  # fmt: skip
    logs = serial_logs(asked, goldens.UUID)
    assert logs == [f"/var/log/libvirt/qemu/{goldens.UUID}-serial{port}.log" for port in (2, 3)]
    assert serial_logs(spec(serials=[{"type": "file", "path": "/srv/mine.log"}]), goldens.UUID) == []


def test_a_template_of_ones_own_may_use_the_names_otherwise() -> None:
    params = {"name": "vm", "video": 7, "firmware": 9, "tpm": "maybe", "cpu": "Nehalem"}
    found = parse_spec("domain", params, node="web", extra=True)
    variables = template_variables(found, DomainFacts("u", "qemu"))
    assert (variables["video"], variables["firmware"], variables["tpm"]) == (7, 9, "maybe")
    assert variables["cpu"]["model"] == "Nehalem"


def test_one_device_renders_alone() -> None:
    disk = template_variables(spec(disks=[{"file": "/a", "bus": "virtio", "dev": "vda"}]), DomainFacts(
        "u", "qemu", disks=spec(disks=[{"file": "/a", "cache": "none"}]).disks))["disks"][0]  # fmt: skip
    alone = render(TemplateSource(name="device/disk.xml.j2"), {"disk": disk, "container": False}, schema="", node="web")
    assert etree.fromstring(alone).find("driver").attrib == {"type": "raw", "cache": "none"}


def test_sets_and_attributes() -> None:
    assert members("0-3,^2,7") == {0, 1, 3, 7}
    assert attributes({"a": True, "b": "", "c": None, "d": 0, "e": "<"}) == ' a="yes" d="0" e="&lt;"'
    assert [on_off(True), on_off(False), on_off("")] == ["on", "off", ""]
