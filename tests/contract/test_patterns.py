"""Section 8: what existing blueprints do, run by cfy on a real host."""

from __future__ import annotations

import functools
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import libvirt
import pytest
import yaml
from lxml import etree

from tests.real.conftest import IMAGES, Cfy, Host
from tests.real.nodes import Node, blueprint, empty_domain, node

PATTERNS = Path(__file__).parent / "patterns" / "blueprint.yaml"
BASE = IMAGES / "patterns"
RESIZED = {("domain 'patterns-vm'", "memory", str(128 << 20), str(160 << 20))}


@pytest.fixture
def image_url(tiny: Path) -> Iterator[str]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tiny.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{tiny.name}"
        server.shutdown()


def records(cfy: Cfy, deployment: str) -> dict[str, dict[str, Any]]:
    """Runtime properties by node; for nodes with one instance."""
    return {str(i["node_id"]): i["runtime_properties"] for i in cfy.instances(deployment)}  # type: ignore[misc]


def isoinfo(image: Path, *options: str) -> str:
    return subprocess.run(["isoinfo", *options, "-i", image], capture_output=True, check=True, text=True).stdout


def drifted(cfy: Cfy) -> list[set[tuple[object, ...]]]:
    """What is told of drift, asked three times."""
    told = [cfy.drift("patterns")[1] for _ in range(3)]
    return [{tuple(one[part] for part in ("object", "field", "declared", "found")) for one in each} for each in told]


def test_the_patterns(clean_host: Host, cfy: Cfy, image_url: str) -> None:
    cfy("install", PATTERNS, "-b", "patterns", "-i", cfy.inputs(image_url=image_url, base_path=str(BASE)))
    found = records(cfy, "patterns")
    root = etree.fromstring(clean_host.domain("patterns-vm").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    # A script of the relationship has replaced the disks and filled in the cards, and configure has read them again.
    (disk,) = root.findall("devices/disk")
    assert disk.find("source").get("file") == str(BASE / "patterns-disk") == found["disk"]["params"]["path"]
    assert disk.find("driver").get("type") == "qcow2"
    macs = [card.find("mac").get("address") for card in root.findall("devices/interface")]
    # The engine has given the first card a MAC in create already.
    assert macs[1] == "52:54:00:aa:bb:01" and len(set(macs)) == 2
    assert {card.find("model").get("type") for card in root.findall("devices/interface")} == {"virtio"}
    assert {card.find("source").get("network") for card in root.findall("devices/interface")} == {"patterns-net"}

    # Functions of the DSL in inputs, nested in lists.
    address = str(found["vm"]["ip"])
    assert cfy.outputs("patterns") == {
        "ip": address, "given": [{"address": address}, [str(BASE / "patterns-disk"), "patterns-net"]],
    }  # fmt: skip
    assert address.startswith("10.98.45.")

    # An external network and an external domain, found by inputs of create; the domain was resized by its start.
    assert found["same_net"]["resource_id"] == "patterns-net" and found["same_net"]["use_external_resource"] is True
    assert found["resized"]["resource_id"] == "patterns-vm"
    assert root.findtext("currentMemory") == "163840" and root.findtext("memory") == "262144"
    assert clean_host.domain("patterns-vm").memoryStats()["actual"] == 163840
    assert not found["resized"].get("update_pending")

    # The configuration drive, with nested paths and a file of the blueprint.
    image = BASE / "patterns-seed"
    assert "Volume id: config-2" in isoinfo(image, "-d")
    assert json.loads(isoinfo(image, "-J", "-x", "/openstack/latest/meta_data.json"))["uuid"] == "patterns"
    assert isoinfo(image, "-J", "-x", "/openstack/content/0000") == "plain text, ä\n"

    # A template with the variables of old.
    root = etree.fromstring(clean_host.domain("patterns-templated").XMLDesc())
    assert root.findtext("on_crash") == "preserve" and root.findtext("description", "").startswith("old & new of templ")
    assert root.find("devices/disk/readonly") is not None and root.findtext("vcpu") == "1"
    assert clean_host.domain("patterns-templated").isActive()
    assert drifted(cfy) == [RESIZED] * 3, "of the machine the memory, which two nodes want differently; nothing else"

    for workflow in ("suspend", "resume", "statistics"):
        cfy("executions", "start", workflow, "-b", "patterns")
    assert records(cfy, "patterns")["vm"]["stat"]["memory"] == 160
    cfy.uninstall("patterns")


@pytest.mark.parametrize("state", ["off", "running"])
def test_an_existing_machine_is_resized_by_its_start(clean_host: Host, cfy: Cfy, state: str) -> None:
    xml = (
        "<domain type='qemu'><name>theirs</name><memory>65536</memory><currentMemory>32768</currentMemory>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )
    theirs = clean_host.connection.defineXML(xml)
    if state == "running":
        theirs.create()
    update = {
        "implementation": "libvirt.cloudify_libvirt.domain_tasks.update",
        "inputs": {"params": {"memory_size": "98304", "vcpu": "2"}, "timeout_s": 0.2},
    }
    domain = node("domain", properties={"use_external_resource": "yes", "resource_id": "theirs"})
    domain["interfaces"] = {"cloudify.interfaces.lifecycle": {"start": update}}
    cfy.install(blueprint(cfy.directory, "resize", vm=domain), "resize")
    root = etree.fromstring(theirs.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    assert [root.findtext(name) for name in ("memory", "currentMemory", "vcpu")] == ["98304", "98304", "2"]
    pending = records(cfy, "resize")["vm"].get("update_pending")
    assert bool(theirs.isActive()) is (state == "running") is bool(pending)
    cfy.uninstall("resize")
    assert theirs.name() == "theirs", "left alone"
    if theirs.isActive():
        theirs.destroy()
    theirs.undefine()


def machines(host: Host) -> dict[str, tuple[int, frozenset[str]]]:
    """QEMU's process of each running machine, and the files of its disks."""
    found = {}
    for name in host.domains():
        sources = etree.fromstring(host.domain(name).XMLDesc()).iterfind("devices/disk/source")
        pid = int(Path(f"/run/libvirt/qemu/{name}.pid").read_text())
        found[name] = (pid, frozenset(str(source.get("file")) for source in sources))
    return found


def used(found: dict[str, tuple[int, frozenset[str]]]) -> set[str]:
    return {path for _pid, paths in found.values() for path in paths}


def volumes() -> set[str]:
    """What is in the group's pool."""
    return set(map(str, (IMAGES / "group").iterdir()))


def scale(cfy: Cfy, delta: int) -> None:
    file = cfy.directory / "parameters.yaml"
    file.write_text(yaml.safe_dump({"scalable_entity_name": "machines", "delta": delta}))
    cfy("executions", "start", "scale", "-b", "group", "-p", file)


def test_a_scaling_group_of_machines_with_their_disks(clean_host: Host, cfy: Cfy) -> None:
    inside: dict[str, Node] = {
        "pool": node("pool", name="group-pool", path=str(IMAGES / "group")),
        "disk": node("volume", "pool", pool="group-pool", capacity=2),
        "seed_volume": node("volume", "pool", pool="group-pool", capacity=1),
        "seed": {"type": "cloudify.libvirt.ISO9660", "relationships": [
            {"type": "cloudify.relationships.contained_in", "target": "seed_volume"}]},
        "vm": empty_domain(),
    }  # fmt: skip
    inside["seed"]["interfaces"] = {"cloudify.interfaces.lifecycle": {"create": {"inputs": {"params": {
        "volume": {"get_attribute": ["seed_volume", "resource_id"]}, "pool": "group-pool", "files": {"meta-data": "x"},
    }}}}}  # fmt: skip
    disks = [
        {"bus": "virtio", "dev": dev, "type": "raw", "file": {"get_attribute": [name, "params", "path"]}}
        for dev, name in (("vda", "disk"), ("vdb", "seed_volume"))
    ]
    inside["vm"]["interfaces"] = {"cloudify.interfaces.lifecycle": {"create": {"inputs": {"params": {"disks": disks}}}}}
    inside["vm"]["relationships"] = [
        {"type": "cloudify.relationships.depends_on", "target": target} for target in ("disk", "seed")
    ]
    path = blueprint(cfy.directory, "group", **inside)
    document = yaml.safe_load(path.read_text())
    document["groups"] = {"machines": {"members": ["vm", "disk", "seed_volume", "seed"]}}
    document["policies"] = {
        "scaling": {
            "type": "cloudify.policies.scaling", "properties": {"default_instances": 2}, "targets": ["machines"],
        }
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    cfy.install(path, "group")
    first = machines(clean_host)
    assert len(first) == 2 and volumes() == used(first) and len(used(first)) == 4, "each machine has its own"

    # One more of the group: a machine with a disk and a seed of its own, and the others hear nothing of it.
    scale(cfy, delta=1)
    more = machines(clean_host)
    (new,) = more.keys() - first.keys()
    assert first.items() <= more.items() and len(more) == 3
    assert len(more[new][1]) == 2 and volumes() == used(more) == used(first) | more[new][1]
    contents = [Path(path).read_bytes()[32769:32774] for path in more[new][1]]
    assert sorted(contents) == [bytes(5), b"CD001"], "an empty disk and a written seed"

    # One less: the newest goes, with its disk and its seed, and nothing else.
    scale(cfy, delta=-1)
    assert machines(clean_host) == first and volumes() == used(first)
    cfy.uninstall("group")
