"""cfy killed (kill -9) after each operation: the next run goes on, and uninstall leaves nothing."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import libvirt
import pytest
import yaml

from tests.real.conftest import BLUEPRINTS, IMAGES, PYTHON, ROOT, Cfy, Host, public_key, ssh

SUCCEEDED = "Task succeeded"
# How many operations one install of each blueprint, and one uninstall, runs; the first test holds it.
OPERATIONS = {"hello": 13, "uefi": 13, "cluster": 19, "classic": 24}
HELLO, CLUSTER, HELLO_BACK = OPERATIONS["hello"], OPERATIONS["cluster"], 7
# After these of them a machine runs (with its NVRAM), two of three volumes are there, the ISO image is in its volume.
STARTED, TWO_VOLUMES, SEEDED = 11, 12, 18
MACHINES = 2
# Blueprints with NVRAM, and with nodes for volumes and an ISO image.
SOURCES = {"uefi.yaml": BLUEPRINTS / "hello.yaml", "classic.yaml": ROOT / "tests/data/blueprints/classic.yaml"}
MORE = {"uefi.yaml": {"firmware": "uefi"}, "classic.yaml": {"name": "classic"}}
SEED = IMAGES / "classic/classic-seed"
NVRAM = Path("/var/lib/libvirt/qemu/nvram")


def params(node: dict[str, Any]) -> dict[str, Any]:
    """What a node template asks for; older blueprints have it in the inputs of create."""
    create = node.get("interfaces", {}).get("cloudify.interfaces.lifecycle", {}).get("create", {})
    found: dict[str, Any] = (create.get("inputs") or node["properties"])["params"]
    return found


def without_boot(name: str, directory: Path) -> Path:
    """A copy of a blueprint whose guests are started, but not waited for, neither up nor down."""
    document = yaml.safe_load(SOURCES.get(name, BLUEPRINTS / name).read_text())
    for node in document["node_templates"].values():
        given = params(node)
        if node["type"] == "cloudify.libvirt.domain":
            given.update(wait_for_ip=False, shutdown_timeout_s=0, **MORE.get(name, {}))
        if node["type"] == "cloudify.libvirt.network":
            given.setdefault("name", "classic")
    path = directory / "blueprint" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


def kill_after(cfy: Cfy, count: int, *arguments: object) -> str:
    """Run cfy, killed right after its count-th operation; return what it said."""
    call = [PYTHON, ROOT / "tests/real/cfy_until.py", count, SUCCEEDED, *arguments]
    done = subprocess.run(
        [str(word) for word in call], env=cfy.environment, cwd=ROOT, check=False, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == -9, done.stdout[-4000:]
    assert done.stdout.count(SUCCEEDED) == count
    return done.stdout


def nvram(host: Host) -> bool:
    return any(NVRAM in Path(file).parents for file in host.files())


def element(pattern: str, xml: str) -> tuple[str, ...]:
    return tuple(re.findall(pattern, xml))


def made(host: Host) -> dict[str, object]:
    """Everything that must come out the same, however often the install was killed."""
    macs, sources = r"<mac address='([^']+)'/>", r"<source (?:file|network|bridge)='([^']+)'"
    return {
        "domains": {
            domain.name(): (domain.UUIDString(), bool(domain.isActive()), element(macs, domain.XMLDesc()),
                            element(sources, domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
            for domain in host.connection.listAllDomains()
        },
        "networks": {
            network.name(): (network.UUIDString(), bool(network.isActive()), network.bridgeName(),
                             element(r"<(?:ip|range|host) [^>]*>", network.XMLDesc()))
            for network in host.connection.listAllNetworks()
        },
        "pools": {
            pool.name(): (pool.UUIDString(), bool(pool.isActive()), sorted(pool.listVolumes()))
            for pool in host.connection.listAllStoragePools()
        },
        "files": host.files(),
        "seed": hashlib.sha256(SEED.read_bytes()).hexdigest() if SEED.exists() else None,
    }  # fmt: skip


def inputs(image: Path, key: Path, **more: object) -> dict[str, Any]:
    return {"image": str(image), "ssh_public_key": public_key(key), "ssh_user": "root", "memory": "128 MiB", **more}


_references: dict[str, dict[str, object]] = {}


def reference(name: str, cfy: Cfy, host: Host, tiny: Path, key: Path) -> dict[str, object]:
    """What an undisturbed install makes; once for all tests."""
    if name not in _references:
        result = cfy.install(without_boot(f"{name}.yaml", cfy.directory), name, **settings(name, tiny, key))
        assert len(result.lines(SUCCEEDED)) == OPERATIONS[name]
        _references[name] = made(host)
        assert nvram(host) == (name == "uefi")
        assert SEED.exists() == (name == "classic")
        result = cfy.uninstall(name)
        assert name != "hello" or len(result.lines(SUCCEEDED)) == HELLO_BACK
    return _references[name]


def settings(name: str, tiny: Path, key: Path) -> dict[str, Any]:
    if name == "classic":
        checksum = "sha256:" + hashlib.sha256(tiny.read_bytes()).hexdigest()
        return {"image_url": f"file://{tiny}", "image_checksum": checksum, "key": public_key(key),
                "base_path": str(SEED.parent)}  # fmt: skip
    more = {"machines": MACHINES, "disk": "256 MiB"} if name == "cluster" else {}
    return inputs(tiny, key, **more)


def kill_install(name: str, count: int, cfy: Cfy, tiny: Path, key: Path) -> None:
    given = cfy.inputs(**settings(name, tiny, key))
    kill_after(cfy, count, "install", without_boot(f"{name}.yaml", cfy.directory), "-b", name, "-i", given)


def kills(*cases: tuple[str, Iterable[int]]) -> pytest.MarkDecorator:
    """Each blueprint with the numbers of the operations after which its install is killed."""
    every = [pytest.param(name, count, id=f"{name}-{count}") for name, counts in cases for count in counts]
    return pytest.mark.parametrize(("name", "count"), every)


@kills(
    ("hello", range(1, HELLO + 1)),
    ("cluster", range(1, CLUSTER + 1)),
    ("uefi", [STARTED]),
    ("classic", [TWO_VOLUMES, SEEDED]),
)
def test_install_killed_goes_on(name: str, count: int, cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    wanted = reference(name, cfy, clean_host, tiny, key)
    kill_install(name, count, cfy, tiny, key)
    cfy("executions", "start", "install", "-b", name)
    assert made(clean_host) == wanted
    assert {state for _, state in states(cfy, name)} == {"started"}
    cfy.uninstall(name)


def states(cfy: Cfy, deployment: str) -> list[tuple[str, str]]:
    return [(str(instance["id"]), str(instance["state"])) for instance in cfy.instances(deployment)]


# Of the cluster, those in which one machine is further than the other.
@kills(
    ("hello", range(1, HELLO + 1)),
    ("cluster", range(9, CLUSTER + 1, 2)),
    ("uefi", [STARTED]),
    ("classic", [TWO_VOLUMES + 1, SEEDED]),
)
def test_install_killed_is_uninstalled(
    name: str, count: int, cfy: Cfy, clean_host: Host, tiny: Path, key: Path
) -> None:
    kill_install(name, count, cfy, tiny, key)
    assert nvram(clean_host) == (name == "uefi")
    cfy.uninstall(name)
    assert not clean_host.domains() and not (IMAGES / name).exists()


@pytest.mark.parametrize("count", range(1, HELLO_BACK + 1))
def test_uninstall_killed_goes_on(count: int, cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    cfy.install(without_boot("hello.yaml", cfy.directory), "hello", **settings("hello", tiny, key))
    kill_after(cfy, count, "uninstall", "-b", "hello")
    cfy("executions", "start", "uninstall", "-b", "hello")
    assert not clean_host.domains() and not (IMAGES / "hello").exists()


def test_uninstall_killed_then_installed(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    """Half taken down, it can also be brought back: by a reinstall of what is left."""
    wanted = reference("hello", cfy, clean_host, tiny, key)
    cfy.install(without_boot("hello.yaml", cfy.directory), "hello", **settings("hello", tiny, key))
    kill_after(cfy, 4, "uninstall", "-b", "hello")
    cfy("executions", "start", "uninstall", "-b", "hello")
    cfy("executions", "start", "install", "-b", "hello")
    assert made(clean_host) == wanted
    cfy.uninstall("hello")


def test_install_killed_again_and_again(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    """Each run gets one operation further, and is killed; the last one has the guests' addresses."""
    given = cfy.inputs(**settings("cluster", tiny, key))
    said = kill_after(cfy, 1, "install", BLUEPRINTS / "cluster.yaml", "-b", "cluster", "-i", given)
    for _ in range(7):
        said += kill_after(cfy, 2, "executions", "start", "install", "-b", "cluster")
    cfy("executions", "start", "install", "-b", "cluster")
    outputs = cfy.outputs("cluster")
    addresses = [str(address) for address in outputs["addresses"]]  # type: ignore[attr-defined]
    assert len(set(addresses)) == MACHINES
    for name, address in zip(outputs["names"], addresses, strict=True):  # type: ignore[call-overload]
        assert ssh(key, address, "hostname") == name
    cfy.uninstall("cluster")


@pytest.mark.parametrize("count", [10, 11, 12], ids=["defined", "started", "address known"])
def test_guest_of_killed_install_answers(count: int, cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    given = cfy.inputs(**settings("hello", tiny, key))
    kill_after(cfy, count, "install", BLUEPRINTS / "hello.yaml", "-b", "hello", "-i", given)
    before = made(clean_host)["domains"]["hello"]  # type: ignore[index]
    cfy("executions", "start", "install", "-b", "hello")
    address = str(cfy.outputs("hello")["address"])
    assert ssh(key, address, "hostname") == "hello"
    uuid, active, macs, disks = made(clean_host)["domains"]["hello"]  # type: ignore[index]
    assert active and (uuid, macs, disks) == (before[0], *before[2:])
    leases = clean_host.connection.networkLookupByName("hello").DHCPLeases(macs[0], 0)
    assert [lease["ipaddr"] for lease in leases] == [address]
    cfy.uninstall("hello")
