"""Pools and volumes, on the test driver (it stores no content and cannot resize)."""

from __future__ import annotations

import uuid

import pytest

from cloudify_libvirt.core.errors import Busy, Conflict, ConnectionLost, CoreError, InUse, Missing
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec.variables import Backing
from cloudify_libvirt.core.storage import bases as storage
from cloudify_libvirt.core.storage import uploads
from cloudify_libvirt.core.storage.bases import Claim, Wish
from cloudify_libvirt.core.storage.users import Users
from cloudify_libvirt.core.volume import Volume, check_room
from tests.driver.conftest import define

MIB = 1024**2


def define_pool(session: Session, name: str = "pool", path: str = "/nowhere/pool") -> Pool:
    uid = str(uuid.uuid4())
    xml = f"<pool type='dir'><name>{name}</name><uuid>{uid}</uuid><target><path>{path}</path></target></pool>"
    return Pool.define(session, xml, name, uid)


@pytest.fixture
def pool(session: Session) -> Pool:
    pool = define_pool(session)
    pool.start()
    return pool


def made(pool: Pool, wish: Wish) -> Volume:
    """An empty volume: made, or found again when this caller made it before."""
    return storage.empty(pool, wish, Claim(Volume.find(pool, wish.name) is not None, lambda: None))


def disk(name: str = "", pool: str = "", path: str = "") -> str:
    source = f"<source file='{path}'/>" if path else f"<source pool='{pool}' volume='{name}'/>"
    return f"<disk type='{'file' if path else 'volume'}'>{source}<target dev='hda'/></disk>"


def test_pool_life_cycle_may_come_twice(session: Session) -> None:
    pool = define_pool(session)
    pool.build()
    for _ in range(2):
        pool.start()
        assert pool.active
    pool.refresh()
    for _ in range(2):
        pool.stop()
        assert not pool.active
    assert pool.try_start() is None
    pool.stop()
    pool.undefine()
    assert Pool.find(session, "pool") is None


def test_two_pools_do_not_share_a_directory(session: Session) -> None:
    pool = define_pool(session)
    with pytest.raises(Conflict, match="directory /nowhere/pool belongs to pool 'pool'"):
        Pool.check_path_free(session, "/nowhere/pool", str(uuid.uuid4()), "mine")
    Pool.check_path_free(session, "/nowhere/pool", pool.uuid, "mine")
    Pool.check_path_free(session, "/nowhere/else", str(uuid.uuid4()), "mine")


def test_active_pool_starts_it_or_says_what_to_do(session: Session) -> None:
    define_pool(session)
    assert storage.active_pool(session, "pool").active
    with pytest.raises(Missing, match=r"pool 'nope'.*Name an existing pool in params.pool"):
        storage.active_pool(session, "nope")


def test_empty_volume_is_made_once(pool: Pool) -> None:
    first = made(pool, Wish("data.qcow2", 8 * MIB))
    again = made(pool, Wish("data.qcow2", 8 * MIB))
    assert first.path == again.path == "/nowhere/pool/data.qcow2"
    facts = again.facts()
    assert (facts.capacity_bytes, facts.format, facts.backing) == (8 * MIB, "qcow2", "")
    assert pool.volume_names() == ["data.qcow2"]


def test_a_volume_that_nobody_claimed_is_somebody_elses(pool: Pool) -> None:
    made(pool, Wish("data", MIB, "raw"))
    recorded: list[str] = []
    with pytest.raises(Conflict, match=r"cannot create volume 'data' of pool 'pool'.*a volume of this name exists"):
        storage.empty(pool, Wish("data", MIB, "raw"), Claim(False, lambda: recorded.append("data")))
    assert recorded == []


def test_the_claim_is_recorded_before_the_volume_is_made(pool: Pool) -> None:
    seen: list[list[str]] = []
    storage.empty(pool, Wish("data", MIB, "raw"), Claim(False, lambda: seen.append(pool.volume_names())))
    assert seen == [[]] and pool.volume_names() == ["data"]


def test_what_a_cut_off_upload_left_is_ours_to_make_anew(pool: Pool) -> None:
    """Unlike what another made, or an upload that ended."""
    with pytest.raises(ConnectionLost), uploads.begun(pool, "goods") as first:
        storage.empty(pool, Wish("goods", 1 << 20), first)
        raise ConnectionLost("write to", "goods", "gone")
    with uploads.begun(pool, "goods") as second:
        assert second.mine
        with pytest.raises(Busy), uploads.begun(pool, "goods"):
            pass
        storage.empty(pool, Wish("goods", 2 << 20), second)
    assert Volume.get(pool, "goods").facts().capacity_bytes == 2 << 20
    with pytest.raises(Conflict), uploads.begun(pool, "goods") as third:
        storage.empty(pool, Wish("goods", 1 << 20), third)
    Volume.get(pool, "goods").delete()


def test_an_upload_of_which_nothing_is_left_claims_nothing(pool: Pool) -> None:
    with pytest.raises(CoreError), uploads.begun(pool, "goods") as first:
        first.record()
        raise CoreError("write to", "goods", "no room")
    with uploads.begun(pool, "goods") as second:
        assert not second.mine


def test_find_and_get(pool: Pool) -> None:
    made(pool, Wish("one", MIB, "raw"))
    assert Volume.find(pool, "two") is None
    with pytest.raises(Missing, match=r"volume 'two' of pool 'pool'.*Pool 'pool' has: one"):
        Volume.get(pool, "two")
    assert Volume.get(pool, "one").name == "one"


def test_what_went_meanwhile_is_said_in_our_own_words(pool: Pool) -> None:
    volume = made(pool, Wish("disk", 1))
    volume.handle.delete(0)
    with pytest.raises(Missing, match="disk"):
        assert volume.path
    with pytest.raises(Missing, match="disk"):
        volume.delete()


def test_room_is_checked_first(pool: Pool) -> None:
    check_room(pool, pool.available_bytes, "fits")
    with pytest.raises(CoreError, match=r"cannot create volume 'huge' of pool 'pool'.*GiB left.*mode: overlay"):
        made(pool, Wish("huge", MIB, "raw", allocation_bytes=pool.available_bytes + 1))
    assert pool.volume_names() == []


def test_shrinking_is_refused(pool: Pool) -> None:
    volume = made(pool, Wish("one", 8 * MIB, "raw"))
    volume.grow(8 * MIB)
    with pytest.raises(Conflict, match="4 MiB is less than its 8 MiB; shrinking would lose data"):
        volume.grow(4 * MIB)


@pytest.mark.parametrize("how", ["by path", "by pool and name"])
def test_a_domains_disk_is_not_deleted(session: Session, pool: Pool, how: str) -> None:
    volume = made(pool, Wish("root", MIB))
    source = disk(path=volume.path) if how == "by path" else disk("root", "pool")
    owner = define(session, "owner", extra=source)
    assert volume.users() == ["domain 'owner'"]
    with pytest.raises(InUse, match=r"used by domain 'owner'. Remove its users first"):
        storage.remove(pool, "root")
    assert pool.volume_names() == ["root"]
    # The domain that goes itself is no obstacle.
    assert storage.remove(pool, "root", besides=owner.uuid) is True
    assert pool.volume_names() == []


def test_a_base_under_an_overlay_is_not_deleted(pool: Pool) -> None:
    base = made(pool, Wish("base", MIB))
    pool.handle.createXML(
        "<volume><name>above</name><capacity unit='MiB'>1</capacity><target><format type='qcow2'/></target>"
        f"<backingStore><path>{base.path}</path><format type='qcow2'/></backingStore></volume>"
    )
    with pytest.raises(InUse, match="used by volume 'above'"):
        base.delete()
    assert storage.release_base(pool, base.path) is False, "only volumes that we made as bases go by themselves"
    assert pool.volume_names() == ["above", "base"]


def test_our_base_goes_with_its_last_overlay(pool: Pool) -> None:
    name = f"{storage.BASE_PREFIX}{'0' * 32}.qcow2"
    base = made(pool, Wish(name, MIB))
    for overlay in ("one", "two"):
        Volume.create(pool, Wish(overlay).xml(MIB, Backing(base.path, "qcow2")), overlay)
    assert storage.remove(pool, "one") is True
    assert pool.volume_names() == [name, "two"]
    assert storage.remove(pool, "two") is True
    assert pool.volume_names() == []


def test_a_users_volume_stays_whatever_it_is_called(pool: Pool) -> None:
    """It is no base image of ours, though its name begins like one: it does not go with its last overlay."""
    golden = made(pool, Wish("base-golden.qcow2", MIB))
    Volume.create(pool, Wish("one").xml(MIB, Backing(golden.path, "qcow2")), "one")
    assert storage.remove(pool, "one") is True
    assert pool.volume_names() == ["base-golden.qcow2"]


def test_bases_in_use_cost_no_look_of_their_own(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for digit in "123":
        base = made(pool, Wish(f"{storage.BASE_PREFIX}{digit * 32}.qcow2", MIB))
        Volume.create(pool, Wish(f"above-{digit}").xml(MIB, Backing(base.path, "qcow2")), f"above-{digit}")
    looks: list[str] = []
    look = Users(pool.session)
    monkeypatch.setattr(Volume, "delete", lambda volume, *_args, **_how: looks.append(volume.name))
    assert storage.remove(pool, "never", look=look) is False
    assert looks == []


def test_missing_is_fine_to_remove(pool: Pool) -> None:
    assert storage.remove(pool, "never") is False
    volume = made(pool, Wish("one", MIB))
    volume.handle.delete(0)
    volume._delete()
