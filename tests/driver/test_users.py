"""Who uses a volume, on the test driver: domains, snapshots, overlays of other pools; guards that fail closed."""

from __future__ import annotations

import uuid

import pytest

from cloudify_libvirt.core.errors import CoreError, InUse, Missing
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.variables import Backing
from cloudify_libvirt.core.storage import users
from cloudify_libvirt.core.storage.bases import Claim, Wish, empty
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.volume import Volume
from tests.driver.conftest import define, domain_xml

MIB = 1024**2


def pool_of(session: Session, name: str) -> Pool:
    uid = str(uuid.uuid4())
    xml = f"<pool type='dir'><name>{name}</name><uuid>{uid}</uuid><target><path>/nowhere/{name}</path></target></pool>"
    found = Pool.define(session, xml, name, uid)
    found.start()
    return found


@pytest.fixture
def volume(session: Session) -> Volume:
    return empty(pool_of(session, "one"), Wish("disk", MIB, "raw"), Claim(False, lambda: None))


def test_a_snapshot_keeps_what_its_domain_gave_up(session: Session, volume: Volume) -> None:
    source = f"<disk type='file'><source file='{volume.path}'/><target dev='hda'/></disk>"
    domain = define(session, "owner", extra=source)
    domain.handle.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>", 0)
    uid = domain.uuid
    session.connection.defineXML(domain_xml("owner", network="", uid=uid))
    with pytest.raises(InUse, match="used by snapshot 'before' of domain 'owner'"):
        volume.delete()
    assert volume.users(besides=uid) == []


def test_an_overlay_of_another_pool_counts(session: Session, volume: Volume) -> None:
    other = pool_of(session, "two")
    Volume.create(other, Wish("above").xml(MIB, Backing(volume.path, "raw")), "above")
    with pytest.raises(InUse, match="used by volume 'above' of pool 'two'"):
        volume.delete()
    look = Users(session)
    assert [user.words for user in look.overlays(volume.path)] == ["volume 'above' of pool 'two'"]
    above = Volume.get(other, "above")
    above.delete(look=look)
    assert look.overlays(volume.path) == [], "one look serves an operation that removes both"
    volume.delete(look=look)


def test_one_look_reads_each_domain_once(session: Session, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        define(session, f"idle-{number}")
    read: list[str] = []
    documents = users._documents
    monkeypatch.setattr(users, "_documents", lambda domain, more: read.append(domain.name()) or documents(domain, more))
    look = Users(session)
    for _ in range(5):
        assert volume.users(look=look) == []
    assert sorted(name for name in read if name.startswith("idle")) == ["idle-0", "idle-1", "idle-2"]


def test_what_cannot_be_read_is_in_use(session: Session, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_arguments: object) -> str:
        raise CoreError("read", "domain 'other'", "not allowed")

    monkeypatch.setattr(users, "unless_gone", denied)
    define(session, "other")
    with pytest.raises(CoreError, match="not allowed"):
        volume.delete()
    monkeypatch.undo()
    assert Volume.find(volume.pool, "disk") is not None


def test_a_domain_that_goes_meanwhile_is_no_user(
    session: Session, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = define(session, "going")
    listed = session.all_domains

    def removed_after(flags: int = 0) -> list[object]:
        found = listed(flags)
        going.handle.undefine()
        monkeypatch.undo()
        return found

    monkeypatch.setattr(session, "all_domains", removed_after)
    assert volume.users() == []
    volume.delete()
    with pytest.raises(Missing):
        Volume.get(volume.pool, "disk")
