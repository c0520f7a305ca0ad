"""A deployment whose state was wiped: its machines are found, removed, or taken over; others' are left alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.real.conftest import BLUEPRINTS, ROOT, Cfy, Host, Result, assert_no_drift, public_key, ssh, virsh
from tests.real.nodes import blueprint, empty_domain, node
from tests.real.test_identity import identities
from tests.real.test_killed import kill_after, made, settings, without_boot

NOTHING, FAILED, FOUND = 0, 1, 2


@pytest.fixture
def stranger(prepared_home: Path, tmp_path: Path) -> Cfy:
    """Another user's cfy on the same host."""
    shutil.copytree(prepared_home, tmp_path / "stranger")
    return Cfy(tmp_path / "stranger")


def tool(cfy: Cfy, *arguments: str) -> Result:
    done = subprocess.run(
        [ROOT / ".venv/bin/cfy-libvirt", "orphans", *arguments], env=cfy.environment, check=False, timeout=600,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, 0.0)


def listed(cfy: Cfy, *arguments: str) -> set[tuple[str, str]]:
    """Kind and name of everything that is listed."""
    found = tool(cfy, "--json", *arguments)
    rows: list[dict[str, Any]] = json.loads(found.output)
    assert found.code == (FOUND if rows else NOTHING), found.output
    assert all(row["certain"] and row["deployment"] and row["since"] and row["why"] for row in rows)
    return {(row["kind"], row["name"]) for row in rows}


@pytest.fixture(autouse=True)
def none_left(cfy: Cfy, stranger: Cfy) -> Iterator[None]:
    """What a failed test left would fail the next ones, too."""
    yield
    for one in (cfy, stranger):
        tool(one, "--remove", "--yes", "--running", "--force")


def wipe(cfy: Cfy, deployment: str) -> None:
    """Remove the state as cfy install does before it installs an id anew."""
    for kind in ("blueprints", "deployments"):
        shutil.rmtree(cfy.directory / ".cloudify/profiles/local" / kind / deployment)


def small(cfy: Cfy, name: str, **more: Any) -> Path:
    """A network, a pool, a volume with an empty machine on them."""
    return blueprint(
        cfy.directory, name,
        network=node("network", name=name, cidr="auto"),
        pool=node("pool", name=name),
        disk=node("volume", "pool", **{"name": f"{name}.raw", "pool": name, "size": "2 MiB", **more}),
        vm=empty_domain("network", "disk", name=name, networks=[{"network": name}],
                        disks=[{"pool": name, "volume": f"{name}.raw"}]),
    )  # fmt: skip


def unmarked(domain: libvirt.virDomain) -> str:
    """The stored definition, but for which instance it is of."""
    return re.sub(r" instance=['\"]\w+['\"]", "", domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


SMALL = {"domain", "network", "pool"}


def test_a_guest_of_a_wiped_state_is_taken_over(clean_host: Host, cfy: Cfy, tiny: Path, key: Path) -> None:
    """The same machine, running on, with what was written in it; and afterwards uninstall leaves nothing."""
    given = {"image": str(tiny), "ssh_public_key": public_key(key), "ssh_user": "root", "memory": "128 MiB"}
    install: Callable[[], Result] = lambda: cfy.install(BLUEPRINTS / "hello.yaml", "hello", **given)  # noqa: E731
    install()
    assert listed(cfy) == set()
    first = identities(clean_host)
    number = clean_host.domain("hello").ID()
    address = str(cfy.outputs("hello")["address"])
    ssh(key, address, "echo precious > /root/kept; sync")
    seed = Path("/var/lib/libvirt/images/hello/hello-seed.iso")
    read, document = seed.stat(), unmarked(clean_host.domain("hello"))
    wipe(cfy, "hello")
    logs = {("file", path) for path in clean_host.files() if path.endswith("-console.log")}
    base = {("volume", f"hello/{path.name}") for path in Path("/var/lib/libvirt/images/hello").glob("base-*")}
    assert len(base) == len(logs) == 1
    parts = {("volume", "hello/hello-root.qcow2"), ("volume", "hello/hello-seed.iso")}
    assert listed(cfy) == {("domain", "hello"), ("network", "hello"), ("pool", "hello")} | parts | base | logs
    again = install()
    assert len(again.lines("takes over what")) == 3
    assert listed(cfy) == set()
    assert identities(clean_host) == first and clean_host.domain("hello").ID() == number
    assert ssh(key, str(cfy.outputs("hello")["address"]), "cat /root/kept") == "precious"
    # What is as declared was not made again below the guest; and it is this install's now, as it runs, too.
    assert (seed.stat().st_ino, seed.stat().st_uid) == (read.st_ino, read.st_uid) and read.st_uid != 0
    assert unmarked(clean_host.domain("hello")) == document
    assert_no_drift(cfy, "hello")
    cfy("install", BLUEPRINTS / "hello.yaml", "-b", "hello", "-i", cfy.inputs(**given))
    assert identities(clean_host) == first and clean_host.domain("hello").ID() == number
    cfy.uninstall("hello")
    assert tool(cfy).code == NOTHING


def test_orphans_are_removed(clean_host: Host, cfy: Cfy) -> None:
    before = clean_host.everything()
    cfy.install(small(cfy, "left"), "left")
    wipe(cfy, "left")
    wanted = {(kind, "left") for kind in SMALL} | {("volume", "left/left.raw")}
    console = {("file", path) for path in clean_host.files() if path.endswith("-console.log")}
    assert listed(cfy) == wanted | console
    assert listed(cfy, "--uri", "lxc:///system") == set()
    refused = tool(cfy, "--remove")
    assert refused.code == FAILED and "Aborted" in refused.output
    kept = tool(cfy, "--remove", "--yes")
    assert kept.code == FOUND and "it runs" in kept.output, kept.output
    assert clean_host.domain("left").isActive(), "a guest that runs is ended only when it is asked for"
    assert ("volume", "left/left.raw") in listed(cfy), "its disk stays, too"
    removed = tool(cfy, "--remove", "--yes", "--running")
    assert removed.code == NOTHING and "stays:" not in removed.output, removed.output
    assert clean_host.everything() == before
    assert not list((cfy.directory / "state").rglob("*.json"))


def test_what_is_there_already_is_not_made_twice(clean_host: Host, cfy: Cfy) -> None:
    """cfy install of an id that is installed; the volume's bytes stay, and another size is refused."""
    cfy.install(small(cfy, "twice"), "twice")
    first, disk = identities(clean_host), Path("/var/lib/libvirt/images/twice/twice.raw")
    disk.write_bytes(b"precious" + disk.read_bytes()[8:])
    refused = cfy.install(small(cfy, "twice", size="4 MiB"), "twice", check=False)
    assert refused.code == 1 and refused.lines("take over volume 'twice.raw'", "2 MiB", "4 MiB")
    assert disk.read_bytes().startswith(b"precious")
    cfy.install(small(cfy, "twice"), "twice")
    assert identities(clean_host) == first and disk.read_bytes().startswith(b"precious")
    cfy.uninstall("twice")
    assert tool(cfy).code == NOTHING


def test_what_another_made_is_left(clean_host: Host, cfy: Cfy, stranger: Cfy) -> None:
    path = small(cfy, "theirs")
    stranger.install(path, "theirs")
    first = identities(clean_host)
    wipe(stranger, "theirs")
    assert tool(cfy, "--uri", "qemu:///system").code == NOTHING
    gone = tool(cfy, "--uri", "qemu:///system", "--remove", "--yes", "--running", "--force")
    assert gone.code == NOTHING and identities(clean_host) == first
    refused = cfy.install(path, "theirs", check=False)
    assert refused.code == 1 and refused.lines("made by another orchestrator")
    cfy.uninstall("theirs", check=False)
    assert identities(clean_host) == first
    assert tool(stranger, "--remove", "--yes", "--running").code == NOTHING


def test_marks_tell_where_the_ledger_is_lost(clean_host: Host, cfy: Cfy) -> None:
    """Domain and network are found by their marks; an older release's mark is removed by force alone."""
    path = blueprint(
        cfy.directory, "lost", network=node("network", name="lost", cidr="auto"), vm=empty_domain(name="old")
    )
    cfy.install(path, "lost")
    xml = virsh("dumpxml", "--inactive", "old")
    older = re.sub(
        r""" (number|orchestrator)=["'][^"']*["']""", "", xml[xml.index("<metadata>") : xml.index("</metadata>")]
    )
    xml = xml[: xml.index("<metadata>")] + older + xml[xml.index("</metadata>") :]
    assert "cfy:owner" in xml and "orchestrator" not in xml
    (cfy.directory / "old.xml").write_text(xml)
    virsh("define", str(cfy.directory / "old.xml"))
    wipe(cfy, "lost")
    for ledger in (cfy.directory / "state").rglob("ledger"):
        shutil.rmtree(ledger)
    rows = json.loads(tool(cfy, "--json").output)
    assert {(row["kind"], row["name"], row["certain"]) for row in rows if row["kind"] != "file"} == {
        ("domain", "old", False), ("network", "lost", True)}  # fmt: skip
    removed = tool(cfy, "--remove", "--yes", "--running")
    assert removed.code == FOUND and "names no orchestrator" in removed.output, removed.output
    assert clean_host.domains() >= {"old"} and "lost" not in clean_host.networks()
    assert tool(cfy, "--remove", "--yes", "--running", "--force").code == NOTHING


@pytest.mark.parametrize("count", [2, 6, 9])
@pytest.mark.parametrize("wiped_again", [False, True])
def test_killed_while_it_takes_over(clean_host: Host, cfy: Cfy, count: int, wiped_again: bool) -> None:
    """After each: the next run, of the same state or of a new one, has the same machines; then nothing is left."""
    path = small(cfy, "killed")
    cfy.install(path, "killed")
    first, disk = identities(clean_host), Path("/var/lib/libvirt/images/killed/killed.raw")
    disk.write_bytes(b"precious" + disk.read_bytes()[8:])
    kill_after(cfy, count, "install", path, "-b", "killed")
    assert listed(cfy) == set(), "it is being installed"
    if wiped_again:
        cfy("install", path, "-b", "killed")
    else:
        cfy("executions", "start", "install", "-b", "killed")
    assert identities(clean_host) == first and disk.read_bytes().startswith(b"precious")
    cfy.uninstall("killed")
    assert tool(cfy).code == NOTHING
    assert not list((cfy.directory / "state").rglob("*.json"))


def test_a_cluster_is_taken_over_and_removed(clean_host: Host, cfy: Cfy, tiny: Path, key: Path) -> None:
    """Scaled instances find each its own machine; afterwards, without a state, everything goes."""
    before = clean_host.everything()
    path, given = without_boot("cluster.yaml", cfy.directory), settings("cluster", tiny, key)
    cfy.install(path, "cluster", **given)
    first, running = made(clean_host), {domain.name(): domain.ID() for domain in clean_host.connection.listAllDomains()}
    again = cfy.install(path, "cluster", **given)
    assert len(again.lines("takes over what")) == len(cfy.instances("cluster"))
    assert made(clean_host) == first
    assert {domain.name(): domain.ID() for domain in clean_host.connection.listAllDomains()} == running
    wipe(cfy, "cluster")
    files = {path for path in clean_host.files() - before["files"] if Path(path).is_file() and "/images/" in path}
    assert {name.rpartition("/")[2] for kind, name in listed(cfy) if kind == "volume"} == {Path(f).name for f in files}
    assert tool(cfy, "--remove", "--yes", "--running").code == NOTHING
    assert clean_host.everything() == before


def test_a_container_is_taken_over_and_removed(clean_host: Host, cfy: Cfy, container_root: Path, key: Path) -> None:
    """Its root lies in a directory, which libvirt does not take for a volume."""
    before = clean_host.everything()
    given = {"image": str(container_root), "ssh_public_key": public_key(key), "ssh_user": "root", "memory": "128 MiB"}
    cfy.install(BLUEPRINTS / "container.yaml", "container", **given)
    number = clean_host.containers.lookupByName("container").ID()
    ssh(key, str(cfy.outputs("container")["address"]), "echo precious > /root/kept")
    cfy.install(BLUEPRINTS / "container.yaml", "container", **given)
    assert clean_host.containers.lookupByName("container").ID() == number
    assert ssh(key, str(cfy.outputs("container")["address"]), "cat /root/kept") == "precious"
    wipe(cfy, "container")
    root = ("file", "/var/lib/libvirt/images/container/container-rootfs")
    assert listed(cfy) == {*((kind, "container") for kind in SMALL), root}
    assert tool(cfy, "--remove", "--yes", "--running").code == NOTHING
    assert clean_host.everything() == before
