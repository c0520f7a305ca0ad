"""libvirtd away in the middle of install, backup, restore and uninstall: guests go on, and so does cfy by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import daemon
from tests.real.conftest import Cfy, Host
from tests.real.outages import GONE, host_again, survived
from tests.real.test_killed import inputs, without_boot

# Calls after which libvirtd is restarted; of those that change something, one of each kind.
INSTALL = (
    "virConnectOpen", "virStoragePoolDefineXML", "virStoragePoolBuild", "virStoragePoolCreate", "virNetworkDefineXML",
    "virNetworkCreate", "virStorageVolCreateXML", "virStorageVolUpload", "virStreamSend", "virStreamSendHole",
    "virStreamFinish", "virDomainDefineXMLFlags", "virDomainCreate", "virStreamFinish@0", "virNetworkCreate@0.02",
    "virDomainCreate@0.02", "virDomainCreate@0.1", "virDomainCreate@0.2",
)  # fmt: skip
BACKUP = (
    "virStorageVolCreateXML", "virDomainBackupBegin", "virDomainBackupBegin@0.02", "virDomainBackupGetXMLDesc",
    "virStorageVolDownload", "virStreamRecvFlags", "virStorageVolDelete", "virDomainCheckpointDelete",
)  # fmt: skip
RESTORE = (
    "virStorageVolCreateXML", "virStreamSend", "virStreamFinish", "virDomainDestroy", "virDomainDestroy@0.02",
    "virDomainCheckpointDelete", "virStorageVolDelete", "virDomainDefineXMLFlags", "virDomainCreate",
)  # fmt: skip
UNINSTALL = (
    "virDomainShutdownFlags", "virDomainDestroy", "virDomainDestroy@0.02", "virDomainUndefineFlags",
    "virStorageVolDelete", "virStoragePoolDestroy", "virStoragePoolDelete", "virStoragePoolUndefine",
    "virNetworkDestroy", "virNetworkUndefine",
)  # fmt: skip


class Lab:
    """One deployment of hello.yaml whose guest is not waited for."""

    def __init__(self, cfy: Cfy, image: Path, key: Path) -> None:
        self.cfy = cfy
        self.blueprint = without_boot("hello.yaml", cfy.directory)
        self.given = cfy.inputs(**inputs(image, key))
        self.points = cfy.directory / "points"

    def install(self) -> tuple[object, ...]:
        return "install", self.blueprint, "-b", "hello", "-i", self.given

    def backup(self, operation: str, **given: object) -> tuple[object, ...]:
        call = {
            "operation": f"cloudify.interfaces.libvirt_backup.{operation}",
            "node_ids": ["vm"],
            "operation_kwargs": {"backup_dir": str(self.points), **given},
            "allow_kwargs_override": True,
        }
        return "executions", "start", "execute_operation", "-b", "hello", "-p", json.dumps(call)

    def kept(self) -> list[str]:
        """Everything in the backup store, but for lock files."""
        return sorted(str(path.relative_to(self.points)) for path in self.points.rglob("*") if ".lock" not in path.name)

    def whole(self, point: str) -> list[str]:
        """What one point has there."""
        files = ("", "/domain.xml", "/manifest.json", "/sda.iso", "/vda.qcow2")
        return ["hello", "hello/hello", *(f"hello/hello/{point}{file}" for file in files)]


@pytest.fixture(autouse=True)
def running() -> Iterator[None]:
    """A test that failed must not leave the others without libvirtd; autouse: before ``host``, after ``cfy``."""
    daemon.start()
    yield
    daemon.start()


@pytest.fixture
def lab(cfy: Cfy, tiny: Path, key: Path) -> Lab:
    return Lab(cfy, tiny, key)


def at_each(places: tuple[str, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", places)


def test_restart_in_checks_and_updates(lab: Lab, cfy: Cfy, host: Host) -> None:
    """An outage is no finding and no failed update, also where the engine tries nothing again."""
    before = host.everything()
    cfy(*lab.install())
    guests = daemon.guests()
    for workflow, place in (("update", "virDomainGetXMLDesc=1"), ("check_status", "virDomainLookupByUUIDString=1")):
        result = survived(cfy, "restart", place, "executions", "start", workflow, "-b", "hello")
        assert result.lines("lost qemu:///system"), result.output[-4000:]
        assert daemon.guests() == guests
    cfy("uninstall", "-b", "hello")
    assert host_again().everything() == before


def test_restart_in_each(lab: Lab, cfy: Cfy, host: Host) -> None:
    """One deployment's life, disturbed in each of its parts."""
    before = host.everything()
    survived(cfy, "restart", "virStreamSend=3,virDomainCreate@0.1=1", *lab.install())
    assert len(daemon.emulators()) == 1, "no second one of a start that was cut off"
    files, guests = host_again().files(), daemon.guests()
    survived(cfy, "restart", "virStreamRecvFlags=1", *lab.backup("create", backup_point="a"))
    assert daemon.guests() == guests, "the guest went on"
    assert host_again().files() == files, "nothing is left of the staging"
    assert lab.kept() == sorted(lab.whole("a"))
    restore = lab.backup("restore", backup_point="a", backup_allow_stop=True)
    survived(cfy, "restart", "virStreamSend=1", *restore)
    host = host_again()
    # The restored disk stands on no base.
    assert host.files() == {file for file in files if "/base-" not in file}
    assert host.domain("hello").isActive(), "it ran before"
    survived(cfy, "restart", "virStorageVolDelete=1", "uninstall", "-b", "hello")
    assert host_again().everything() == before and not daemon.emulators()


def test_gone_for_20_s(lab: Lab, cfy: Cfy, host: Host) -> None:
    before = host.everything()
    survived(cfy, GONE, "virNetworkCreate=1", *lab.install())
    cfy.uninstall("hello")
    assert host_again().everything() == before


@pytest.mark.chaos
@at_each(INSTALL)
def test_restart_in_install(place: str, lab: Lab, cfy: Cfy, host: Host) -> None:
    before = host.everything()
    survived(cfy, "restart", f"{place}=1", *lab.install())
    host = host_again()
    assert host.domain("hello").isActive() and set(daemon.guests()) == {"hello"} and len(daemon.emulators()) == 1
    cfy.uninstall("hello")
    assert host.everything() == before and not daemon.emulators()


def in_backup(what: str, moment: str, lab: Lab, host: Host) -> None:
    before = host.everything()
    lab.cfy(*lab.install())
    files, guests = host.files(), daemon.guests()
    lab.cfy(*lab.backup("create", backup_point="a"))
    survived(lab.cfy, what, moment, *lab.backup("create", backup_point="b"))
    assert daemon.guests() == guests, "the guest went on"
    assert host_again().files() == files, "nothing is left of the staging"
    assert lab.kept() == sorted({*lab.whole("a"), *lab.whole("b")})
    lab.cfy(*lab.backup("verify", backup_deep=True))
    lab.cfy.uninstall("hello")
    assert host_again().everything() == before


def in_restore(what: str, moment: str, lab: Lab, host: Host) -> None:
    before = host.everything()
    lab.cfy(*lab.install())
    files = host.files()
    lab.cfy(*lab.backup("create", backup_point="a"))
    survived(lab.cfy, what, moment, *lab.backup("restore", backup_point="a", backup_allow_stop=True))
    host = host_again()
    assert host.files() == {file for file in files if "/base-" not in file}
    assert host.domain("hello").isActive(), "it ran before"
    lab.cfy.uninstall("hello")
    assert host_again().everything() == before


def in_uninstall(what: str, moment: str, lab: Lab, host: Host) -> None:
    before = host.everything()
    lab.cfy(*lab.install())
    survived(lab.cfy, what, moment, "uninstall", "-b", "hello")
    assert host_again().everything() == before and not daemon.emulators()


def test_gone_for_20_s_in_a_backup(lab: Lab, host: Host) -> None:
    in_backup(GONE, "virStreamRecvFlags=1", lab, host)


@pytest.mark.chaos
def test_gone_for_20_s_in_a_restore(lab: Lab, host: Host) -> None:
    in_restore(GONE, "virStreamSend=1", lab, host)


@pytest.mark.chaos
def test_gone_for_20_s_in_an_uninstall(lab: Lab, host: Host) -> None:
    in_uninstall(GONE, "virStorageVolDelete=1", lab, host)


@pytest.mark.chaos
@at_each(BACKUP)
def test_restart_in_backup(place: str, lab: Lab, host: Host) -> None:
    in_backup("restart", f"{place}=1", lab, host)


@pytest.mark.chaos
@at_each(RESTORE)
def test_restart_in_restore(place: str, lab: Lab, host: Host) -> None:
    in_restore("restart", f"{place}=1", lab, host)


@pytest.mark.chaos
@at_each(UNINSTALL)
def test_restart_in_uninstall(place: str, lab: Lab, host: Host) -> None:
    in_uninstall("restart", f"{place}=1", lab, host)
