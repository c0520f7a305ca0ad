"""libvirtd away in the middle of the workflows ``update`` and ``scale``: they go on by themselves, guests, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real import daemon
from tests.real.conftest import Cfy, Host
from tests.real.outages import GONE, host_again, survived
from tests.real.test_update_local import blueprint, inputs, start

# Calls after which libvirtd is restarted; of those that change something, one of each kind.
UPDATE = (
    "virConnectOpen", "virDomainGetXMLDesc", "virDomainDefineXMLFlags", "virDomainDefineXMLFlags=2",
    "virDomainSetMetadata", "virDomainSetMetadata=2", "virDomainSetMetadata@0.002",
)  # fmt: skip
OUT = (
    "virConnectOpen", "virStorageVolCreateXML", "virStorageVolCreateXML=2", "virStorageVolUpload", "virStreamSend",
    "virStreamFinish", "virDomainDefineXMLFlags", "virDomainCreate", "virDomainCreate@0.02", "virDomainCreate@0.1",
    "virDomainCreate@0.2",
)  # fmt: skip
IN = (
    "virDomainShutdownFlags", "virDomainDestroy", "virDomainDestroy@0.02", "virDomainUndefineFlags",
    "virStorageVolDelete", "virStorageVolDelete=2",
)  # fmt: skip


@dataclass
class Cluster:
    """Two guests that are not waited for; what there is of them."""

    cfy: Cfy
    image: Path
    key: Path

    def install(self) -> None:
        path = blueprint(self.cfy.directory, boots=False)
        self.cfy.install(path, "cluster", **inputs(self.image, self.key))

    def disturbed(self, what: str, place: str, workflow: str, **parameters: Any) -> Host:
        """Run a workflow, libvirtd away in it; it ends well. ``place``: a call, and after = its number."""
        moment = place if "=" in place else f"{place}=1"
        survived(self.cfy, what, moment, "executions", "start", workflow, "-b", "cluster", "-p", json.dumps(parameters))
        return host_again()

    def scaled(self, place: str, delta: int, what: str = "restart") -> Host:
        return self.disturbed(what, place, "scale", scalable_entity_name="machine", delta=delta)

    def updated(self, place: str, about: str, what: str = "restart") -> Host:
        return self.disturbed(what, place, "update", inputs={"about": about})

    def told(self, host: Host) -> list[str]:
        """Each machine's description, as stored and as it runs."""
        domains = [host.domain(name) for name in ("node-1", "node-2")]
        return [domain.metadata(0, None, flags) for domain in domains for flags in (1, 2)]


@pytest.fixture(autouse=True)
def running() -> Iterator[None]:
    """A test that failed must not leave the others without libvirtd; autouse: before ``host``, after ``cfy``."""
    daemon.start()
    yield
    daemon.start()


@pytest.fixture
def cluster(cfy: Cfy, tiny: Path, key: Path) -> Cluster:
    return Cluster(cfy, tiny, key)


def test_restart_in_update_and_scale(cluster: Cluster, cfy: Cfy, host: Host) -> None:
    """One deployment's changes, each disturbed; who stays keeps its process."""
    before = host.everything()
    cluster.install()
    files, guests = host.files(), daemon.guests()
    host = cluster.updated("virDomainSetMetadata", "another one")
    assert cluster.told(host) == ["another one"] * 4
    assert daemon.guests() == guests, "the guests went on"
    host = cluster.scaled("virDomainCreate@0.1", 1)
    assert set(daemon.guests()) == {*guests, "node-3"} and host.domain("node-3").isActive()
    assert guests.items() <= daemon.guests().items()
    assert len(daemon.emulators()) == 3, "no second one of a start that was cut off"
    host = cluster.scaled("virDomainDestroy", -1)
    assert daemon.guests() == guests and len(daemon.emulators()) == 2
    assert host.files() == files and host.domains() == {"node-1", "node-2"}
    nothing = start(cfy, "update")
    assert "unchanged: 4" in nothing.output, nothing.output[-3000:]
    cfy.uninstall("cluster")
    assert host.everything() == before and not daemon.emulators()


def in_update(what: str, place: str, cluster: Cluster, host: Host) -> None:
    before = host.everything()
    cluster.install()
    files, guests = host.files(), daemon.guests()
    host = cluster.updated(place, "another one", what)
    assert cluster.told(host) == ["another one"] * 4
    assert daemon.guests() == guests and host.files() == files
    cluster.cfy.uninstall("cluster")
    assert host.everything() == before and not daemon.emulators()


def in_scale_out(what: str, place: str, cluster: Cluster, host: Host) -> None:
    before = host.everything()
    cluster.install()
    files, guests = host.files(), daemon.guests()
    host = cluster.scaled(place, 1, what)
    assert host.domain("node-3").isActive() and len(daemon.emulators()) == 3
    assert guests.items() <= daemon.guests().items() and set(daemon.guests()) == {*guests, "node-3"}
    start(cluster.cfy, "scale", scalable_entity_name="machine", delta=-1)
    assert host.files() == files and daemon.guests() == guests
    cluster.cfy.uninstall("cluster")
    assert host.everything() == before and not daemon.emulators()


def in_scale_in(what: str, place: str, cluster: Cluster, host: Host) -> None:
    before = host.everything()
    cluster.install()
    files, guests = host.files(), daemon.guests()
    start(cluster.cfy, "scale", scalable_entity_name="machine", delta=1)
    host = cluster.scaled(place, -1, what)
    assert daemon.guests() == guests and len(daemon.emulators()) == 2
    assert host.files() == files and host.domains() == {"node-1", "node-2"}
    cluster.cfy.uninstall("cluster")
    assert host.everything() == before and not daemon.emulators()


@pytest.mark.chaos
def test_gone_for_20_s_in_update(cluster: Cluster, host: Host) -> None:
    in_update(GONE, "virDomainSetMetadata", cluster, host)


@pytest.mark.chaos
def test_gone_for_20_s_in_scale_out(cluster: Cluster, host: Host) -> None:
    in_scale_out(GONE, "virStreamSend", cluster, host)


@pytest.mark.chaos
def test_gone_for_20_s_in_scale_in(cluster: Cluster, host: Host) -> None:
    in_scale_in(GONE, "virDomainDestroy", cluster, host)


@pytest.mark.chaos
@pytest.mark.parametrize("place", UPDATE)
def test_restart_in_update(place: str, cluster: Cluster, host: Host) -> None:
    in_update("restart", place, cluster, host)


@pytest.mark.chaos
@pytest.mark.parametrize("place", OUT)
def test_restart_in_scale_out(place: str, cluster: Cluster, host: Host) -> None:
    in_scale_out("restart", place, cluster, host)


@pytest.mark.chaos
@pytest.mark.parametrize("place", IN)
def test_restart_in_scale_in(place: str, cluster: Cluster, host: Host) -> None:
    in_scale_in("restart", place, cluster, host)
