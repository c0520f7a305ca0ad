"""Backups without a hypervisor: names, manifests, chains, rotations, what inputs may say."""

import datetime
import json
import os
import random
import stat
from contextlib import suppress
from dataclasses import asdict

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from cloudify_libvirt.core.backup import chain, manifest, names, seeds
from cloudify_libvirt.core.backup.chain import Keep
from cloudify_libvirt.core.backup.definition import RestoredDisk, another, macs
from cloudify_libvirt.core.backup.job import DiskJob
from cloudify_libvirt.core.backup.keeping import Place
from cloudify_libvirt.core.backup.manifest import DiskEntry, Manifest
from cloudify_libvirt.core.backup.store import DirectoryStore
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.errors import BackupBroken, Busy, CoreError, InUse, InvalidSpec, Missing, Unsupported
from cloudify_libvirt.core.media import build_iso
from cloudify_libvirt.core.spec.backup import BackupSpec, parse_backup

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
START = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def point(name, parent="", sequence=1, day=0, incremental=None):
    disk = DiskEntry(
        target="vda", format="qcow2", source="/d/vda", virtual_bytes=10, file="vda.qcow2", bytes=4, sha256="0",
        incremental=bool(parent) if incremental is None else incremental,
    )  # fmt: skip
    return Manifest(
        tool="1", point=name, sequence=sequence, created=(START + datetime.timedelta(days=day)).isoformat(),
        deployment="dep", domain="vm", uuid="u", parent=parent, reason="", checkpoint="c", running=True, quiesced=True,
        consistency="", libvirt=9000000, hypervisor=7002000, disks=(disk,), skipped=(), definition_bytes=1,
        definition_sha256="0",
    )  # fmt: skip


def points(*parents):
    """Points named 0, 1, ... of one day each; each entry is the number of its parent, or None."""
    found = [
        point(str(number), "" if parent is None else str(parent), number + 1, number)
        for number, parent in enumerate(parents)
    ]
    return {one.point: one for one in found}


@given(st.text(max_size=70))
def test_checked_names_stay_in_a_directory(name):
    try:
        checked = names.checked(name, "a name")
    except InvalidSpec:
        return
    assert os.path.normpath(f"/base/{checked}") == f"/base/{checked}"
    assert "~" not in checked and "\0" not in checked and not checked.startswith(".")


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a..b", "a/b", "\\", "a\0", "a\n", "~", "x" * 61, ".a"])
def test_names_that_are_refused(name):
    with pytest.raises(InvalidSpec):
        names.checked(name, "a name")


def test_points_of_one_second_differ():
    first = names.new_point(START, [])
    assert first == "20260101T120000Z"
    assert names.new_point(START, [first, f"{first}-2"]) == f"{first}-3"


def test_manifest_comes_back_as_it_was():
    assert manifest.decode(manifest.encode(point("a")), "x") == point("a")


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_of_a_manifest_is_seen(position, mask):
    data = bytearray(manifest.encode(point("a", "b", 7)))
    data[position % len(data)] ^= mask
    with suppress(BackupBroken, Unsupported):
        assert manifest.decode(bytes(data), "x") == point("a", "b", 7), "read as something else"


def test_manifest_of_a_newer_release_is_not_guessed_at():
    document = json.loads(manifest.encode(point("a")))
    document["manifest"]["version"] = 2
    with pytest.raises(Unsupported, match="version 2"):
        manifest.decode(json.dumps(document).encode(), "x")


def test_chains_and_dependants():
    some = points(None, 0, 1, None, 3)
    assert [one.point for one in chain.chain(some, "2")] == ["0", "1", "2"]
    assert chain.dependants(some, "0") == ["1", "2"]
    with pytest.raises(InUse, match="points 1, 2 stand"):
        chain.refuse_dependants(some, "0", "here")
    chain.refuse_dependants(some, "2", "here")
    del some["1"]
    with pytest.raises(BackupBroken, match="needs point '1'"):
        chain.chain(some, "2")
    assert chain.dependants(some, "1") == ["2"], "one that cannot be read is needed all the same"
    with pytest.raises(Missing, match="There is: 0, 2, 3, 4"):
        chain.get(some, "9", "here")
    assert chain.get(some, "", "here").point == "4"


def test_points_that_name_each_other_are_no_chain():
    some = {"a": point("a", "b", 2), "b": point("b", "a", 1)}
    with pytest.raises(BackupBroken):
        chain.chain(some, "a")


def test_disks_that_are_whole_begin_anew():
    some = {"a": point("a"), "b": point("b", "a", 2, incremental=False), "c": point("c", "b", 3)}
    assert [one.point for one, _ in chain.layers(some, "c", "vda")] == ["b", "c"]
    with pytest.raises(BackupBroken, match="no full copy"):
        chain.layers(some, "c", "vdb")


def test_rotation_keeps_what_is_stood_on():
    some = points(None, 0, 1, None, 3)
    assert chain.expired(some, Keep(last=1)) == ["2", "1", "0"]
    assert chain.expired(some, Keep(last=3)) == []
    assert chain.kept(some, Keep(daily=2)) == {"3", "4"}
    for keep in (Keep(), Keep(last=-1)):
        with pytest.raises(InvalidSpec):
            chain.expired(some, keep)


def test_rotation_by_week_and_month():
    some = points(*[None] * 70)
    # 2026-01-01 is a Thursday; 70 days end on 2026-03-11, a Wednesday.
    assert sorted(map(int, chain.kept(some, Keep(weekly=3)))) == [59, 66, 69]
    assert sorted(map(int, chain.kept(some, Keep(monthly=2)))) == [58, 69]
    assert sorted(map(int, chain.kept(some, Keep(last=2, monthly=1)))) == [68, 69]


@given(st.lists(st.integers(-1, 30), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 5))
def test_no_rotation_breaks_a_chain(parents, last, weekly):
    some = points(*(None if parent < 0 or parent >= number else parent for number, parent in enumerate(parents)))
    for going in chain.expired(some, Keep(last=last, weekly=weekly)):
        chain.refuse_dependants(some, going, "here")
        del some[going]
    assert len(some) >= 1
    for name in some:
        chain.layers(some, name, "vda")


def test_directory_publishes_whole_points_only(tmp_path):
    store = DirectoryStore(tmp_path, "dep", "vm")
    assert store.points() == [] and store.sweep() == []
    assert store.write("a", "vda.qcow2", 3, [b"a", b"bc"]) == (
        3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    )  # fmt: skip
    assert store.points() == []
    store.publish(point("a"))
    assert store.points() == ["a"] and store.manifest("a") == point("a")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"dep": 0o700, "vm": 0o700, "a": 0o700, "manifest.json": 0o600, "vda.qcow2": 0o600}
    store.write("b", "vda.qcow2", 1, [b"x"])
    assert store.sweep() == [".draft-b"] and store.points() == ["a"]
    store.write("a", "vda.qcow2", 1, [b"x"])
    with pytest.raises(CoreError, match="cannot publish"):
        store.publish(point("a"))
    store.sweep()
    assert store.read("a", "vda.qcow2") == b"abc"
    with store.lock(), pytest.raises(Busy), store.lock():
        pass
    store.delete("a")
    assert store.points() == []


def test_manifest_in_the_wrong_place_is_refused(tmp_path):
    store = DirectoryStore(tmp_path, "dep", "vm")
    store.publish(point("a"))
    (store.root / "a").rename(store.root / "b")
    assert "dep/vm/a" in store.manifests()[1]["b"]


def test_place_is_a_directory_or_a_pool(tmp_path):
    assert Place(directory=str(tmp_path)).store("dep", "vm").points() == []
    for wrong in (Place(), Place(directory="x", pool="y")):
        with pytest.raises(InvalidSpec, match="Name one of them"):
            wrong.store("dep", "vm")


DOMAIN = """<domain type='qemu'><name>vm</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid><memory>1</memory>
<metadata><cfy:owner xmlns:cfy='https://cloudify.co/libvirt/1' deployment='d'/></metadata>
<os><type>hvm</type><nvram>/x</nvram></os><devices>
<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vda'/></disk>
<disk type='file' device='disk'><source file='/left'/><target dev='vdb'/></disk>
<disk type='file' device='cdrom'><source file='/seed.iso'/><target dev='sda'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='n'/><target dev='tap9'/></interface>
<serial type='pty'><log file='/log'/></serial></devices></domain>"""


def test_a_new_domain_shares_nothing_with_the_old_one():
    xml, lacking = another(DOMAIN, "new <1> & co", "u-2", {"vda": RestoredDisk("/new a&b", "raw")})
    root = etree.fromstring(xml)
    assert (root.findtext("name"), root.findtext("uuid")) == ("new <1> & co", "u-2")
    assert lacking == ["disk vdb", "the medium of sda"]
    assert [source.get("file") for source in root.findall("devices/disk/source")] == ["/new a&b"]
    assert root.find("devices/disk/driver").get("type") == "raw"
    assert root.find("devices/interface/mac").get("address") != "52:54:00:00:00:01"
    for gone in ("metadata", "os/nvram", "devices/interface/target", "devices/serial/log"):
        assert root.find(gone) is None, gone


def test_a_copy_has_a_seed_of_its_own():
    addresses = macs(DOMAIN, "u-2")
    (mac,) = addresses.values()
    network = b"ethernets: {a: {match: {macaddress: '52:54:00:00:00:01'}, set-name: b}}"
    files = {
        "meta-data": b"{instance-id: old, local-hostname: vm}",
        "user-data": b"#cloud-config\nhostname: vm\nx: hostname: vm",
        "network-config": network,
    }
    own = seeds.another(build_iso(files), "copy", "u-2", addresses)
    assert seeds.is_seed(own)
    found = dict(seeds._files(own))
    assert found.pop("network-config") == network.replace(b"52:54:00:00:00:01", mac.encode())
    assert yaml.safe_load(found.pop("meta-data")) == {"instance-id": "u-2", "local-hostname": "copy"}
    assert found == {"user-data": b"#cloud-config\nhostname: copy\nx: hostname: vm"}
    unnamed = dict(seeds._files(seeds.another(build_iso(files), "a copy", "u-2", {})))
    assert unnamed["user-data"] == files["user-data"] and b"local-hostname: vm" in unnamed["meta-data"]
    medium = {"sda": RestoredDisk("/own.iso", "raw")}
    xml, lacking = another(DOMAIN, "new", "u-2", {"vda": RestoredDisk("/new", "qcow2"), **medium})
    assert lacking == ["disk vdb"] and "/seed.iso" not in xml
    assert etree.fromstring(xml).find("devices/disk[@device='cdrom']/source").get("file") == "/own.iso"


@pytest.mark.parametrize(
    "files",
    [
        {"user-data": b""},
        *(
            {"meta-data": text}
            for text in (b"- a list", b"a: [", b"\xff\x00", b"a: 2024-02-30", b"[" * 1500, b"a: !!bool x",
                         b"!!timestamp x", b'a: "\\U99999999"', b"a: 0b_")
        ),
    ],
)  # fmt: skip
def test_an_odd_seed_is_kept_or_completed(files):
    data = build_iso(files)
    own = seeds.another(data, "copy", "u-2", {})
    if "meta-data" in files:
        assert own == data
    else:
        assert yaml.safe_load(dict(seeds._files(own))["meta-data"]) == {"instance-id": "u-2"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # A time stamp shorter than its entry says; a version that is no number; a name that no ISO image may have.
        (b"TF\x1a\x01\x0e", b"TF\x1a\x01\x7f"),
        (b";1", b";x"),
        (b"\0m\0e\0t\0a", b"\0m\0e\0:\0a"),
    ],
)
def test_a_damaged_seed_is_kept(before, after):
    whole = build_iso({"meta-data": b"instance-id: old", "user-data": b""})
    data = whole.replace(before, after)
    assert data != whole and seeds.another(data, "copy", "u-2", {}) == data


def test_no_damage_ends_in_a_traceback():
    whole = build_iso({"meta-data": b"{instance-id: old, local-hostname: vm}", "network-config": b"a: b"})
    places, chance = [at for at, byte in enumerate(whole) if byte], random.Random(7)
    for _ in range(400):
        data = bytearray(whole)
        for at in chance.choices(places, k=4):
            data[at] = chance.choice([0, 1, 127, 255])
        cut = bytes(data[: chance.choice([len(data), 40000])])
        assert seeds.another(cut, "copy", "u-2", {})


def test_other_media_are_no_seeds():
    assert not seeds.is_seed(build_iso({"a": b""}, vol_ident="installer"))
    assert not seeds.is_seed(b"") and not seeds.is_seed(bytes(1 << 16))
    assert seeds.another(b"nothing" * 10000, "copy", "u-2", {}) == b"nothing" * 10000


@pytest.mark.parametrize("since", ["", "cfy-1-p1"])
def test_job_and_checkpoint_keep_to_libvirts_schema(since):
    disks = [
        asdict(DiskJob("vda", "/a&b", since, True)),
        asdict(DiskJob("sda", "", "", False)),
        asdict(DiskJob("vdb", "/c.raw", "", False, "raw", UUID)),
    ]
    job = render(TemplateSource(name="backup.xml.j2"), {"disks": disks}, schema="domainbackup", node="x")
    root = etree.fromstring(job)
    assert [disk.get("backup") for disk in root.findall("disks/disk")] == ["yes", "no", "yes"]
    assert [one.get("type") for one in root.findall("disks/disk/driver")] == ["qcow2", "raw"]
    assert [one.get("uuid") for one in root.findall("disks/disk/target/encryption/secret")] == [UUID]
    assert root.find("disks/disk").get("incremental", "") == since
    assert root.find("disks/disk/target").get("file") == "/a&b"
    variables = {"checkpoint": "c", "description": "<d>", "disks": disks, "created": None}
    text = render(TemplateSource(name="checkpoint.xml.j2"), variables, schema="domaincheckpoint", node="x")
    assert [disk.get("checkpoint") for disk in etree.fromstring(text).findall("disks/disk")] == ["bitmap", "no", "no"]
    again = render(
        TemplateSource(name="checkpoint.xml.j2"), {**variables, "created": 9}, schema="domaincheckpoint", node="x"
    )
    assert etree.fromstring(again).findtext("creationTime") == "9"


ALL = {
    "backup_dir": "/b", "backup_pool": "p", "backup_uri": "qemu:///system", "backup_point": "x", "backup_kind": "full",
    "backup_quiesce": "false", "backup_timeout_s": "60", "backup_full_every": 3, "backup_staging_pool": "s",
    "backup_exclude": ["vdb"], "backup_content": "yes", "backup_deep": True, "backup_allow_stop": "on",
    "backup_new_name": "n", "backup_keep_last": 1, "backup_keep_daily": 2, "backup_keep_weekly": 3,
    "backup_keep_monthly": 4,
}  # fmt: skip


def test_every_input_is_read():
    found = parse_backup({**ALL, "params": {}, "backup_file": "x"}, node="vm")
    assert {f"backup_{name}" for name in BackupSpec.model_fields if name != "extra"} == set(ALL)
    assert (found.quiesce, found.timeout_s, found.exclude, found.content, found.rotates) == (
        False, 60, ("vdb",), True, True,
    )  # fmt: skip
    assert not parse_backup({}, node="vm").rotates


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"backup_kid": "full"}, "Did you mean 'backup_kind'"),
        ({"backup_kind": "half"}, "backup_kind of node vm"),
        ({"backup_keep_last": -1}, "backup_keep_last"),
        ({"backup_allow_stop": "perhaps"}, "true or false"),
    ],
)
def test_wrong_inputs_are_named(inputs, words):
    with pytest.raises(InvalidSpec, match=words):
        parse_backup(inputs, node="vm")


def test_foreign_directory_beside_points_is_only_named(tmp_path):
    store = DirectoryStore(tmp_path, "dep", "vm")
    (store.root / "copy~").mkdir(parents=True)
    found, damaged = store.manifests()
    assert not found and "'~'" in damaged["copy~"]
