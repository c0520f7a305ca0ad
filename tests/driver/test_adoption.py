"""What an earlier install left is taken over by the same instance alone, and only when nobody has it any more."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import deployments, domain_tasks, network_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.adoption import JOURNAL
from cloudify_libvirt.cli.main import main
from cloudify_libvirt.cli.orphans import lives
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.ownership import ledger
from cloudify_libvirt.core.ownership import mark as ownership
from cloudify_libvirt.core.ownership.ledger import Entry
from cloudify_libvirt.core.ownership.orphans import Look
from cloudify_libvirt.core.ownership.orphans_removal import Removal
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.record import OWN_KEYS
from tests.driver.conftest import URI, CountingInstance, Node, define


@dataclass
class Installed(Node):
    """A node instance of a deployment whose state is in files, as those of local mode."""

    home: Path = Path()
    instance: str = "a"

    @property
    def id(self) -> str:
        return f"{self.name}_{self.instance}"

    @property
    def file(self) -> Path:
        return self.home / "deployments" / self.deployment / "node-instances" / f"{self.id}.json"

    def ctx(self) -> Any:
        ctx = super().ctx()
        ctx._endpoint = SimpleNamespace(
            storage=SimpleNamespace(_storage=SimpleNamespace(_root_storage_dir=str(self.home)))
        )
        return ctx

    def there(self) -> Installed:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("{}")
        (self.file.parent.parent / "executions.json").write_text('[{"status": "terminated", "created_at": "1"}]')
        return self

    def anew(self, **changes: Any) -> Installed:
        """The same instance after its state was wiped, and its deployment was made again."""
        self.file.unlink()
        how = {**vars(self), "runtime": {}, "stored": [], "instance": chr(ord(self.instance) + 1), **changes}
        return Installed(**how).there()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield tmp_path / "state"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/deployments").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def machine(home: Path) -> Installed:
    given = {"name": "kept", "memory": "64 MiB", "networks": [{"network": "default"}], "wait_for_ip": False}
    return Installed(name="vm", params=given, home=home).there()


@pytest.fixture
def disk(home: Path) -> Installed:
    return Installed(name="disk", params={"name": "kept", "pool": "default-pool", "size": "2 MiB"}, home=home).there()


def configure(node: Node) -> None:
    for name in ("create", "configure"):
        node.run(getattr(domain_tasks, name))


def look(session: Session, home: Path) -> Look:
    return Look(session, ledger.every(), lives, frozenset({str(home)}))


def left(session: Session, home: Path) -> list[tuple[str, str]]:
    return [(item.kind, item.name) for orphan in look(session, home).orphans() for item in orphan.items]


def test_the_journal_is_a_part_of_what_is_recorded() -> None:
    assert set(JOURNAL) <= OWN_KEYS | {"resource_id"}


def test_the_id_is_made_once_and_nobody_else_reads_it(state: Path) -> None:
    first = ownership.orchestrator_id()
    path = next(state.rglob("orchestrator"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    ownership._id_in.cache_clear()
    assert ownership.orchestrator_id() == first == path.read_text()
    path.write_text("not one")
    ownership._id_in.cache_clear()
    with pytest.raises(CoreError, match="it is not one"):
        ownership.orchestrator_id()


def test_the_ledger_follows_the_journal(session: Session, machine: Installed, state: Path) -> None:
    machine.run(domain_tasks.create)
    assert ledger.every() == [], "nothing is made yet"
    configure(machine)
    (entry,) = ledger.every()
    assert (entry.deployment, entry.node, entry.number, entry.instance, entry.kind) == (
        "dep",
        "vm",
        0,
        "vm_a",
        "domain",
    )
    assert entry.journal["uuid"] == machine.runtime["uuid"] and entry.since
    assert "params" not in entry.journal
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*.json")} == {0o600}
    machine.run(domain_tasks.delete)
    assert ledger.every() == [] and not list((state / "ledger").rglob("*.json"))


def test_it_is_written_before_anything_is_made(session: Session, machine: Installed) -> None:
    define(session, "other", mac="52:54:00:00:00:77")
    configure(machine)
    first = next(stored for stored in machine.stored if stored.get("uuid"))
    assert "kept" not in first["_domains"]
    machine.run(domain_tasks.delete)


def test_nothing_is_made_where_the_ledger_cannot_be_written(
    session: Session, machine: Installed, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ownership.orchestrator_id()
    (ledger.directory()).write_text("in the way")
    with pytest.raises(NonRecoverableError, match="cannot keep what is made in"):
        configure(machine)
    assert "kept" not in [handle.name() for handle in session.connection.listAllDomains()]


def test_a_lost_entry_is_written_again(session: Session, machine: Installed) -> None:
    configure(machine)
    ledger.forget(ledger.every()[0])
    machine.run(domain_tasks.start)
    assert [entry.instance for entry in ledger.every()] == ["vm_a"]


def test_the_same_instance_takes_its_domain_over(session: Session, machine: Installed, home: Path) -> None:
    configure(machine)
    machine.run(domain_tasks.start)
    handle = session.connection.lookupByName("kept")
    uuid, number, macs = handle.UUIDString(), handle.ID(), machine.runtime["params"]["networks"]
    again = machine.anew()
    configure(again)
    assert again.runtime["uuid"] == uuid and again.runtime["adopted"]["instance"] == "vm_a"
    assert again.runtime["params"]["networks"] == macs
    handle = session.connection.lookupByName("kept")
    assert handle.ID() == number, "it runs on"
    mark = ownership.mark_on(Domain(session, handle))
    assert mark is not None and (mark.instance, mark.orchestrator) == ("vm_b", ownership.orchestrator_id())
    assert [entry.instance for entry in ledger.every()] == ["vm_b"]
    again.run(domain_tasks.delete)
    assert left(session, home) == [] and ledger.every() == []


class Killed(BaseException):
    """The end of a process: nothing that comes after it happens."""


def dying(at: int, patch: pytest.MonkeyPatch) -> list[str]:
    """End the process before the ``at``-th time that something is stored, in the ledger or by the engine."""
    done: list[str] = []

    def wrap(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def wrapped(*arguments: Any) -> Any:
            if len(done) >= at:
                raise Killed
            done.append(name)
            return call(*arguments)

        patch.setattr(owner, name, wrapped)

    wrap(ledger, "write")
    wrap(ledger, "forget")
    wrap(CountingInstance, "update")
    return done


@pytest.mark.parametrize("wiped_again", [False, True])
@pytest.mark.parametrize("at", range(6))
def test_killed_at_any_step_of_taking_over(
    session: Session, machine: Installed, home: Path, at: int, wiped_again: bool
) -> None:
    configure(machine)
    again = machine.anew()
    with pytest.MonkeyPatch.context() as patch:
        done = dying(at, patch)
        try:
            configure(again)
        except Killed:
            pass
        else:
            assert len(done) <= at
    kept = again.stored[-1] if again.stored else {}
    again.runtime = {key: value for key, value in kept.items() if key != "_domains"}
    last = again.anew() if wiped_again else again
    configure(last)
    assert last.runtime["uuid"] == machine.runtime["uuid"]
    assert [entry.instance for entry in ledger.every()] == [last.id] and left(session, home) == []
    last.run(domain_tasks.delete)
    assert ledger.every() == []


MAKING: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "domain": (domain_tasks, "configure", {"name": "kept", "memory": "64 MiB", "wait_for_ip": False}),
    "network": (network_tasks, "create", {"name": "kept", "cidr": "auto"}),
    "pool": (pool_tasks, "create", {"name": "kept", "path": "/nowhere/kept"}),
    "volume": (volume_tasks, "create", {"name": "kept", "pool": "default-pool", "size": "2 MiB"}),
}


@pytest.mark.parametrize("kind", MAKING)
def test_killed_before_anything_was_recorded(session: Session, home: Path, kind: str) -> None:
    """The ledger has the entry, the instance nothing: a delete, with nothing made, forgets it."""
    tasks, making, params = MAKING[kind]
    node = Installed(name="kept", params=params, home=home).there()
    if kind == "domain":
        node.run(domain_tasks.create)
    before = dict(node.runtime)
    with pytest.MonkeyPatch.context() as patch:
        done = dying(1, patch)
        with pytest.raises(Killed):
            node.run(getattr(tasks, making))
    assert done == ["write"]
    node.runtime = before
    (entry,) = ledger.every()
    assert (entry.kind, entry.instance, entry.uri) == (kind, "kept_a", URI) and not before.get("resource_id")
    node.run(tasks.delete)
    assert ledger.every() == [] and left(session, home) == []


def test_what_never_could_be_read_has_nothing_to_forget(session: Session, machine: Installed) -> None:
    """An intrinsic function that nothing evaluated is where the URI should be; others' entries stay."""
    configure(machine)
    entries = ledger.every()
    unread = Installed(name="other", home=machine.home, properties={"libvirt_auth": {"get_attribute": ["vm", "uri"]}})
    with pytest.raises(NonRecoverableError, match="libvirt_auth"):
        unread.there().run(network_tasks.create)
    for tasks in (network_tasks, pool_tasks, volume_tasks, domain_tasks):
        unread.run(tasks.delete)
        assert unread.runtime == {} and ledger.every() == entries
    machine.run(domain_tasks.delete)
    assert ledger.every() == []


def test_a_living_instance_keeps_its_domain(session: Session, machine: Installed, home: Path) -> None:
    configure(machine)
    again = machine.anew()
    machine.there()
    with pytest.raises(NonRecoverableError, match=r"an object with its UUID .* exists, of instance vm_a"):
        configure(again)
    assert not again.runtime.get("uuid")
    again.run(domain_tasks.delete)
    assert session.connection.lookupByName("kept").UUIDString() == machine.runtime["uuid"]
    assert [entry.instance for entry in ledger.every()] == ["vm_a"]


def test_where_nobody_can_tell_nothing_is_taken_over(session: Session, machine: Installed, tmp_path: Path) -> None:
    """The first home is on a disk that is not mounted now."""
    configure(machine)
    again = machine.anew(home=tmp_path / "other")
    machine.home.rename(tmp_path / "unmounted")
    with pytest.raises(NonRecoverableError, match="an object with its UUID"):
        configure(again)


@pytest.mark.parametrize("change", [{"deployment": "other"}, {"index": 2}])
def test_another_instance_takes_nothing_over(session: Session, machine: Installed, change: dict[str, Any]) -> None:
    configure(machine)
    again = machine.anew(**change)
    with pytest.raises(NonRecoverableError, match=r"another domain .* has this name"):
        configure(again)


def test_another_orchestrators_domain_stays_a_conflict(
    session: Session, machine: Installed, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(machine)
    again = machine.anew()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(NonRecoverableError, match="made by another orchestrator"):
        configure(again)
    again.run(domain_tasks.delete)
    assert left(session, home) == []
    assert session.connection.lookupByName("kept").UUIDString() == machine.runtime["uuid"]


def test_a_domain_that_another_made_meanwhile_is_not_taken_over(
    session: Session, machine: Installed, home: Path
) -> None:
    """The ledger says that we made it, the mark that another did since."""
    configure(machine)
    handle = session.connection.lookupByName("kept")
    session.connection.defineXML(handle.XMLDesc().replace(ownership.orchestrator_id(), "f" * 32))
    again = machine.anew()
    with pytest.raises(NonRecoverableError, match=f"another orchestrator .{'f' * 32}"):
        configure(again)
    assert not again.runtime.get("uuid") and left(session, home) == []


def test_a_mark_is_enough_where_the_ledger_is_lost(session: Session, machine: Installed) -> None:
    configure(machine)
    uuid = machine.runtime["uuid"]
    again = machine.anew()
    ledger.forget(ledger.every()[0])
    configure(again)
    assert again.runtime["uuid"] == uuid


def test_another_name_is_refused(session: Session, machine: Installed) -> None:
    configure(machine)
    again = machine.anew(params={**machine.params, "name": "renamed"})
    with pytest.raises(NonRecoverableError, match="made 'kept', which is still there"):
        configure(again)


def test_a_domain_with_snapshots_in_files_is_refused(session: Session, machine: Installed) -> None:
    """Its disks are the snapshots' files: a definition with those below would lose what was written since."""
    configure(machine)
    (entry,) = ledger.every()
    ledger.write(Entry(**{**vars(entry), "journal": {**entry.journal, "snapshot_files": ["/p/kept@one.qcow2"]}}))
    with pytest.raises(NonRecoverableError, match="snapshots in files of their own"):
        configure(machine.anew())


def test_a_finished_volume_is_taken_over_and_not_made_anew(session: Session, disk: Installed) -> None:
    disk.run(volume_tasks.create)
    again = disk.anew()
    again.run(volume_tasks.create)
    assert again.runtime["path"] == disk.runtime["path"] == again.runtime["params"]["path"]
    assert again.runtime["filled"] and again.runtime["pool"] == "default-pool"
    again.run(volume_tasks.delete)
    assert session.connection.storagePoolLookupByName("default-pool").listVolumes() == [] == ledger.every()


@pytest.mark.parametrize(
    ("change", "words"), [({"size": "4 MiB"}, "2 MiB.*4 MiB are asked"), ({"size": "1 MiB"}, "resize it afterwards")]
)
def test_a_volume_of_another_size_is_refused(
    session: Session, disk: Installed, change: dict[str, Any], words: str
) -> None:
    disk.run(volume_tasks.create)
    again = disk.anew(params={**disk.params, **change})
    with pytest.raises(NonRecoverableError, match=words):
        again.run(volume_tasks.create)
    again.run(volume_tasks.delete)
    assert session.connection.storagePoolLookupByName("default-pool").listVolumes() == ["kept"]


def test_a_volume_that_went_is_made_again(session: Session, disk: Installed) -> None:
    disk.run(volume_tasks.create)
    session.connection.storagePoolLookupByName("default-pool").storageVolLookupByName("kept").delete()
    again = disk.anew()
    again.run(volume_tasks.create)
    assert session.connection.storagePoolLookupByName("default-pool").listVolumes() == ["kept"]


def test_a_foreign_volume_of_the_name_is_never_taken_over(session: Session, disk: Installed) -> None:
    session.connection.storagePoolLookupByName("default-pool").createXML(
        "<volume><name>kept</name><capacity unit='MiB'>2</capacity></volume>"
    )
    with pytest.raises(NonRecoverableError, match="a volume of this name exists"):
        disk.run(volume_tasks.create)
    assert ledger.every() == []


def test_a_pool_at_another_path_is_refused(session: Session, home: Path) -> None:
    pool = Installed(name="pool", params={"name": "kept", "path": "/nowhere/one"}, home=home).there()
    pool.run(pool_tasks.create)
    again = pool.anew(params={"name": "kept", "path": "/nowhere/two"})
    with pytest.raises(NonRecoverableError, match="at /nowhere/one, not at /nowhere/two"):
        again.run(pool_tasks.create)
    again = again.anew(params=pool.params)
    again.run(pool_tasks.create)
    assert again.runtime["uuid"] == pool.runtime["uuid"]


def test_a_network_keeps_bridge_and_subnet(session: Session, home: Path) -> None:
    net = Installed(name="net", params={"name": "kept", "cidr": "auto"}, home=home).there()
    net.run(network_tasks.create)
    again = net.anew()
    again.run(network_tasks.create)
    assert [again.runtime[key] for key in ("uuid", "cidr", "bridge")] == [
        net.runtime[key] for key in ("uuid", "cidr", "bridge")
    ]


def test_orphans_of_every_kind_are_found_and_removed(
    session: Session, machine: Installed, disk: Installed, home: Path
) -> None:
    net = Installed(name="net", params={"name": "kept", "cidr": "auto"}, home=home).there()
    pool = Installed(name="pool", params={"name": "kept", "path": "/nowhere/kept"}, home=home).there()
    configure(machine)
    disk.run(volume_tasks.create)
    net.run(network_tasks.create)
    for name in ("create", "configure"):
        pool.run(getattr(pool_tasks, name))
    assert left(session, home) == []
    for node in (machine, disk, net, pool):
        node.file.unlink()
    assert left(session, home) == [
        ("domain", "kept"), ("network", "kept"), ("volume", "default-pool/kept"), ("pool", "kept")]  # fmt: skip
    seen = look(session, home)
    removal = Removal(seen)
    removal.run(seen.orphans())
    assert removal.left == [] and left(session, home) == [] and ledger.every() == []
    assert session.connection.listAllDomains() and "kept" not in [d.name() for d in session.connection.listAllDomains()]


def test_a_running_guest_and_a_full_pool_stay(session: Session, machine: Installed, home: Path) -> None:
    pool = Installed(name="pool", params={"name": "full", "path": "/nowhere/full"}, home=home).there()
    for name in ("create", "configure"):
        pool.run(getattr(pool_tasks, name))
    session.connection.storagePoolLookupByName("full").createXML(
        "<volume><name>theirs</name><capacity unit='MiB'>1</capacity></volume>"
    )
    configure(machine)
    machine.run(domain_tasks.start)
    for node in (machine, pool):
        node.file.unlink()
    seen = look(session, home)
    removal = Removal(seen)
    removal.run(seen.orphans())
    assert len(removal.left) == 2 and "it runs" in removal.left[0] and "not empty: theirs" in removal.left[1]
    assert len(left(session, home)) == 2
    removal = Removal(seen, running=True)
    removal.run(seen.orphans())
    assert left(session, home) == [("pool", "full")]


def test_what_was_installed_again_meanwhile_is_not_removed(session: Session, machine: Installed, home: Path) -> None:
    """Between the list and the removal another process took it over."""
    configure(machine)
    machine.file.unlink()
    seen = look(session, home)
    (orphan,) = seen.orphans()
    machine.there()
    Removal(seen).run([orphan])
    assert session.connection.lookupByName("kept").UUIDString() == machine.runtime["uuid"]


def test_a_deployment_that_is_being_installed_has_no_orphans(session: Session, machine: Installed, home: Path) -> None:
    configure(machine)
    again = machine.anew()
    assert left(session, home) == [("domain", "kept")], "its install ended, and did not take it over"
    executions = again.file.parent.parent / "executions.json"
    for status, wanted in (("started", []), ("pending", []), ("failed", [("domain", "kept")])):
        old = {"status": "terminated", "created_at": {"__datetime__": "2026-01-01"}}
        executions.write_text(json.dumps([{"status": status, "created_at": {"__datetime__": "2026-01-02"}}, old]))
        assert left(session, home) == wanted
    executions.unlink()
    assert left(session, home) == [], "it begins this moment"


def test_what_cannot_be_told_is_not_removed(session: Session, machine: Installed, home: Path, tmp_path: Path) -> None:
    configure(machine)
    home.rename(tmp_path / "unmounted")
    seen = look(session, home)
    (orphan,) = seen.orphans()
    assert not orphan.certain
    removal = Removal(seen)
    removal.run([orphan])
    removal.prune()
    assert "--force" in removal.left[0] and len(ledger.every()) == 1
    Removal(seen, force=True).run([orphan])
    assert ledger.every() == []


def test_a_volume_that_a_living_instance_recorded_is_nobodys_orphan(
    session: Session, disk: Installed, home: Path
) -> None:
    """Killed between the new entry and the end of the old one: both name the volume."""
    disk.run(volume_tasks.create)
    (entry,) = ledger.every()
    ledger.write(Entry(**{**vars(entry), "instance": "disk_gone"}))
    assert len(ledger.every()) == 2 and left(session, home) == []
    seen = look(session, home)
    Removal(seen).prune()
    assert [entry.instance for entry in ledger.every()] == ["disk_a"]
    assert session.connection.storagePoolLookupByName("default-pool").listVolumes() == ["kept"]


def test_a_damaged_record_is_said(state: Path, home: Path) -> None:
    entry = Entry("dep", "vm", 0, URI, "domain", "vm_a", str(home), journal={"uuid": "u"})
    ledger.write(entry)
    entry.path.write_text("{")
    with pytest.raises(CoreError, match="it is damaged"):
        ledger.every()


def test_journals_of_one_machine_are_joined() -> None:
    entries = [
        Entry("d", "n", 0, URI, "domain", "a", journal={"made": [1], "filled": {"x": True}, "path": "/old"}),
        Entry("d", "n", 0, URI, "domain", "b", journal={"made": [1, 2], "filled": {"y": True}, "path": "/new"}),
    ]
    assert ledger.merged(entries) == {"made": [1, 2], "filled": {"x": True, "y": True}, "path": "/new"}


def test_an_instance_without_a_home_is_of_an_unknown_place() -> None:
    assert deployments.lives("", "dep", "vm_a") is None


def tool(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["orphans", *arguments])


def test_the_command(session: Session, machine: Installed, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudify_libvirt.cli.orphans.SETTLED_S", 0.0)
    configure(machine)
    assert tool().exit_code == 0 and "belongs to a deployment" in tool().output
    machine.file.unlink()
    (row,) = json.loads(tool("--json").output)
    assert (row["kind"], row["name"], row["deployment"], row["node"]) == ("domain", "kept", "dep", "vm")
    assert row["since"] and "vm_a is in no deployment" in row["why"]
    assert tool().exit_code == 2 and tool("--uri", "test:///nowhere.xml").exit_code == 1
    assert tool("--remove", "--json").exit_code == 64, "there is nobody to ask"
    assert tool("--remove").exit_code == 1 and ledger.every()
    machine.there()
    assert tool("--remove", "--yes").exit_code == 0 and ledger.every()
    machine.file.unlink()
    removed = tool("--remove", "--yes")
    assert removed.exit_code == 0 and removed.output.endswith("removed\n") and not ledger.every()


def test_what_is_gone_from_the_host_is_forgotten(session: Session, machine: Installed) -> None:
    configure(machine)
    machine.file.unlink()
    session.connection.lookupByName("kept").undefine()
    assert tool().exit_code == 0 and len(ledger.every()) == 1
    assert tool("--remove").exit_code == 0 and ledger.every() == []


def test_what_a_manager_keeps_is_never_removed(session: Session, machine: Installed, home: Path) -> None:
    configure(machine)
    (entry,) = ledger.every()
    ledger.forget(entry)
    ledger.write(Entry(**{**vars(entry), "home": ""}))
    machine.file.unlink()
    seen = look(session, home)
    removal = Removal(seen, force=True)
    removal.run(seen.orphans())
    assert "by a Manager" in removal.left[0] and len(ledger.every()) == 1
    assert "kept" in [handle.name() for handle in session.connection.listAllDomains()]
