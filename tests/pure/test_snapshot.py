"""What a snapshot is made of, its documents, and what may be asked for; no hypervisor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import etree

from cloudify_libvirt.core.backup.filestore import Store
from cloudify_libvirt.core.errors import AccessDenied, CoreError, InvalidSpec
from cloudify_libvirt.core.snapshot import xml as snapshot_xml
from cloudify_libvirt.core.snapshot.overlay import file_part, is_ours, memory_path
from cloudify_libvirt.core.snapshot.plan import Plan, Wish, plan
from cloudify_libvirt.core.snapshot.snapshots import packaged
from cloudify_libvirt.core.snapshot.xml import DiskState
from cloudify_libvirt.core.spec.snapshot import SnapshotSpec, parse_snapshot

DATA = Path(__file__).resolve().parent.parent / "data" / "snapshot"
CASES = sorted(DATA.glob("*.yaml"))


def state(target: str, format_: str = "qcow2", **how: Any) -> DiskState:
    device = "cdrom" if target.startswith("sd") else "disk"
    return DiskState(**{"target": target, "path": f"/d/{target}.{format_}", "format": format_, "kind": "file",
                        "device": device, "readonly": device == "cdrom", **how})  # fmt: skip


def rendered(case: Path) -> str:
    told = yaml.safe_load(case.read_text())
    spec = parse_snapshot(told["inputs"], node="vm")
    wish = Wish(f"vm_a1-{spec.name}", spec.type, spec.kind, spec.memory, spec.quiesce, spec.exclude)
    drafted = plan(wish, [state(**one) for one in told["disks"]], "domain 'vm'",
                   running=told.get("running", False), agent=told.get("agent", False), pflash=False)  # fmt: skip
    overlays = {
        one.target: f"/d/{one.target}@{file_part(wish.name)}.qcow2" for one in drafted.disks if one.mode == "external"
    }
    memory = memory_path("/d/vda", "vm", wish.name) if drafted.memory == "external" else ""
    assert drafted.quiesce == told.get("quiesced", False)
    return packaged(wish, drafted.placed(overlays, memory))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_documents(case: Path) -> None:
    assert rendered(case) == case.with_suffix(".xml").read_text()


def test_every_key_is_in_a_case() -> None:
    given = {key for case in CASES for key in yaml.safe_load(case.read_text())["inputs"]}
    assert {f"snapshot_{name}" for name in SnapshotSpec.model_fields if name != "extra"} == given


def decide(wish: Wish, *disks: DiskState, running: bool = True, agent: bool = False, pflash: bool = False) -> Plan:
    return plan(wish, disks, "domain 'vm'", running=running, agent=agent, pflash=pflash)


@pytest.mark.parametrize(
    ("disks", "how", "kind", "memory"),
    [
        ([state("vda"), state("sda", "raw")], {}, "internal", "internal"),
        ([state("vda"), state("vdb", "raw")], {}, "external", "external"),
        ([state("vda"), state("vdb", "raw", readonly=True)], {}, "internal", "internal"),
        ([state("vda"), state("vdb", "raw", device="floppy")], {}, "internal", "internal"),
        ([state("vda"), state("sdb", kind="empty", path="")], {}, "internal", "internal"),
        ([state("vda", path="/d/vda@one.qcow2")], {}, "external", "external"),
        ([state("vda")], {"pflash": True}, "external", "external"),
        ([state("vda")], {"running": False}, "internal", ""),
        ([state("vda", "raw")], {"running": False}, "external", ""),
    ],
)
def test_the_kind_follows_from_the_disks(disks: list[DiskState], how: Any, kind: str, memory: str) -> None:
    found = decide(Wish("one"), *disks, **how)
    assert (found.kind, found.memory) == (kind, memory)


def test_quiesce_is_for_disks_without_their_memory() -> None:
    asked = decide(Wish("one", quiesce=True), state("vda"), agent=True)
    assert (asked.kind, asked.memory, asked.quiesce) == ("external", "no", True)
    assert decide(Wish("one", memory=False), state("vda"), agent=True).quiesce
    assert not decide(Wish("one", memory=False, quiesce=False), state("vda"), agent=True).quiesce
    assert not decide(Wish("one", memory=False), state("vda")).quiesce


@pytest.mark.parametrize(
    ("wish", "disks", "words"),
    [
        (Wish("one", kind="internal"), [state("vda", "raw")], "disk vda is raw, not qcow2"),
        (Wish("one", kind="internal", memory=False), [state("vda")], "always holds the memory"),
        (Wish("one", kind="internal", exclude=("vdb",)), [state("vda"), state("vdb")], "vdb cannot be left out"),
        (Wish("one"), [state("vda"), state("vdb", kind="network", path="")], "vdb is of type network"),
        (Wish("one"), [state("vda", "raw", encrypted=True)], "vda is encrypted"),
        (Wish("one"), [], "no disk is left"),
        (Wish("one", exclude=("vdz",)), [state("vda")], "no disk vdz"),
        (Wish("one", memory=True, quiesce=True), [state("vda")], "holds what the guest has not written"),
    ],
)
def test_what_cannot_work_is_refused(wish: Wish, disks: list[DiskState], words: str) -> None:
    with pytest.raises(CoreError, match=words):
        decide(wish, *disks)


@pytest.mark.parametrize("name", ["", " ", "..", "../x", "a/../b", "/abs", ".hidden", "a\\..\\b", "ä" * 91, None])
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(InvalidSpec):
        parse_snapshot({"snapshot_name": name}, node="vm")


def test_strings_count_as_what_they_say() -> None:
    spec = parse_snapshot({"snapshot_name": "a", "snapshot_incremental": "false", "snapshot_rotation": "3"}, node="vm")
    assert spec.incremental is False and spec.keeps == 3
    assert [parse_snapshot({"snapshot_name": "a", "snapshot_rotation": n}, node="vm").keeps for n in (-1, 0, 1, 2)] == [
        None, None, None, 2,
    ]  # fmt: skip
    with pytest.raises(InvalidSpec, match="snapshot_incremental of node vm: must be true or false"):
        parse_snapshot({"snapshot_name": "a", "snapshot_incremental": "maybe"}, node="vm")


def test_names_of_files() -> None:
    assert is_ours("/d/root@vm_a1-one.qcow2") and is_ours("/d/root@x.2.qcow2") and is_ours("/d/vm@x.mem")
    assert not is_ours("/d/root.qcow2") and not is_ours("/d/me@home/root.qcow2") and not is_ours("/d/a@b.raw")
    assert "/" not in file_part("a/b") and file_part("a b") != file_part("a_b") and "@" not in file_part("a@b")


DOMAIN = """<domain type='qemu'><devices>
<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='p' volume='v'/><backingStore/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/d/b'/><target dev='vdb'/></disk>
</devices></domain>"""


def test_disks_get_other_files() -> None:
    found = snapshot_xml.disks(snapshot_xml.with_sources(DOMAIN, {"vda": "/d/a & b@one.qcow2"}))
    assert [(one.target, one.path, one.format, one.kind) for one in found] == [
        ("vda", "/d/a & b@one.qcow2", "qcow2", "file"), ("vdb", "/d/b", "qcow2", "file"),
    ]  # fmt: skip


def test_a_snapshot_follows_files_that_were_merged() -> None:
    text = f"<domainsnapshot><name>two</name>{DOMAIN}</domainsnapshot>"
    found = snapshot_xml.facts(snapshot_xml.moved(text, {"/d/b": ("/d/a", "raw")}))
    assert (found.sources["vdb"], found.formats["vdb"]) == ("/d/a", "raw")


def test_a_users_document_is_completed_only_where_it_is_silent() -> None:
    planned = (
        "<domainsnapshot><name>a</name><memory snapshot='no'/>"
        "<disks><disk name='vda' snapshot='no'/></disks></domainsnapshot>"
    )
    root = etree.fromstring(snapshot_xml.completed("<domainsnapshot><name>a</name></domainsnapshot>", planned))
    assert [child.tag for child in root] == ["name", "memory", "disks"]
    own = "<domainsnapshot><name>a</name><disks><disk name='vdb' snapshot='internal'/></disks></domainsnapshot>"
    assert etree.fromstring(snapshot_xml.completed(own, planned)).find("disks/disk").get("name") == "vdb"


def test_files_are_ours_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "b", "tenant/dep", "daily", "a b", "u1")
    other = Store(tmp_path / "b", "tenant/dep", "daily", "a_b", "u1")
    store.prepare()
    store.write(".xml", "<a/>")
    assert store.complete and store.read(".xml") == "<a/>" and not other.complete
    assert store.path(".xml").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in store.directory.iterdir()] == [store.path(".xml").name], "no draft is left"
    (store.directory / f".{store.path('_vda.disk').name}.x1").touch()
    store.remove()
    assert not store.directory.exists() and not store.directory.parent.exists()
    store.directory.parent.mkdir(mode=0o755)
    store.directory.parent.chmod(0o755)
    with pytest.raises(AccessDenied, match="chmod 700"):
        store.prepare()


if __name__ == "__main__":
    for one in CASES:
        one.with_suffix(".xml").write_text(rendered(one))
