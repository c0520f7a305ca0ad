"""Secrets planted everywhere a blueprint may hold one, and then looked for everywhere else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
import yaml

from tests.real.attempts import SHELF, Attempt, node, vm
from tests.real.canaries import CANARIES, FORMS, LIBVIRTS, Search, documents, found_in, open_to_all
from tests.real.conftest import IMAGES, ROOT, Cfy
from tests.real.test_volumes_key import Watch

TOOL = str(ROOT / ".venv/bin/cfy-libvirt")
LABS = Path(os.environ.get("CLOUDIFY_LIBVIRT_LAB_DIR") or "/var/tmp/cloudify-libvirt/labs")
NOTHING, FOUND = 0, 2

# What is done with the machine while the secrets are there; none of it may fail, or it would prove nothing.
OPERATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("libvirt_backup.create", {"backup_point": "p1"}),
    ("libvirt_backup.verify", {"backup_deep": True}),
    ("libvirt_backup.list", {}),
    ("snapshot.create", {"snapshot_name": "one"}),
    ("snapshot.check", {"snapshot_name": "one"}),
    ("snapshot.apply", {"snapshot_name": "one"}),
)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    forms = {form for each in FORMS.values() for form in each}
    monkeypatch.setattr("tests.real.test_volumes_key.FORMS", forms)
    with Watch() as watch:
        yield watch
    assert watch.looks > 3
    assert watch.seen == set()


def nodes(web: str, after: str = "") -> dict[str, Any]:
    """The machine and what is beside it; ``after``: with the secrets that an update brings."""
    url = web.replace("http://", f"http://me:{CANARIES['image URL']}@")
    machine = vm(
        image={"source": f"{url}/tiny.qcow2"}, pool="shelf", description=f"machine{after}",
        graphics=[{"type": "vnc", "password": CANARIES[f"screen{after}"]}],
        cloud_init={"user_data": {"password": CANARIES[f"cloud-init password{after}"],
                                  "runcmd": [CANARIES["user data"]]}},
    )  # fmt: skip
    vault = node("volume", params={"name": "vault", "pool": "shelf", "size": "8 MiB",
                 "encryption": {"passphrase": CANARIES["key of a disk"]}})  # fmt: skip
    medium = node("volume", params={"name": "medium", "pool": "shelf", "size": "2 MiB"})
    files = node("ISO9660", params={"pool": "shelf", "volume": "medium", "files": {"secret": CANARIES["ISO files"]}})
    files["relationships"] = [{"type": "cloudify.relationships.depends_on", "target": "medium"}]
    return {"machine": machine, "vault": vault, "medium": medium, "files": files}


def failing() -> dict[str, Any]:
    """What cannot work here, with secrets that its error may name."""
    luns = node(
        "pool",
        params={
            "name": "luns", "type": "iscsi",
            "source": {"host": "127.0.0.1", "device": "iqn.2026-01.org.example:none"}, "path": "/dev/disk/by-path",
            "auth": {"username": "me", "password": CANARIES["CHAP"]},
        },
    )  # fmt: skip
    far = node("network", params={"name": "far"}, libvirt_auth=f"qemu+tcp://me:{CANARIES['URI']}@127.0.0.1:1/system")
    return {"luns": luns, "far": far}


class Course:
    """The life of one deployment; keeps all that anybody was told of it."""

    def __init__(self, attempt: Attempt, search: Search) -> None:
        self.attempt, self.cfy, self.host, self.search = attempt, attempt.cfy, attempt.host, search
        self.leaks: set[str] = set()
        self.told = 0

    def hear(self, text: str) -> str:
        self.told += 1
        self.leaks |= self.search.said(text)
        return text

    def run(self, *command: object, code: int = NOTHING) -> str:
        result = self.cfy(*command, check=False)
        self.hear(result.output)
        assert result.code == code, (command, result.output[-3000:])
        return result.output

    def start(self, workflow: str, **parameters: object) -> str:
        file = self.cfy.directory / "parameters.yaml"
        file.write_text(yaml.safe_dump(parameters))
        try:
            return self.run("executions", "start", workflow, "-b", "bad", "-p", file)
        finally:
            file.unlink()

    def tool(self, *command: object, code: int) -> str:
        done = subprocess.run(
            [TOOL, *map(str, command)], env=self.cfy.environment, cwd="/", capture_output=True, text=True, check=False
        )
        self.hear(done.stdout + done.stderr)
        assert done.returncode == code, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def show(self) -> None:
        for document in documents(self.host):
            self.hear(document)

    def operate(self, operation: str, inputs: dict[str, object]) -> None:
        asked = {"operation": f"cloudify.interfaces.{operation}", "node_ids": ["machine"],
                 "operation_kwargs": inputs, "allow_kwargs_override": True}  # fmt: skip
        self.run("executions", "start", "execute_operation", "-b", "bad", "-p", json.dumps(asked))


def test_secrets_are_nowhere_but_where_they_must_be(
    attempt: Attempt, shelf: Any, cache: Path, web: str, watch: Watch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    search = Search()
    course = Course(attempt, search)
    home, host = attempt.cfy.directory, attempt.host
    first, later = nodes(web), nodes(web, ", updated")
    # As cfy makes it; local-setup, which came first here, closes it.
    (home / ".cloudify").chmod(0o755)
    try:
        path = attempt.blueprint(first, {})
        planned = course.tool("plan", path, "-b", "bad", "--xml", "--json", code=FOUND)
        assert "<domain" in planned and '"vault"' in planned
        course.run("install", path, "-b", "bad")
        kept = home / "kept"
        for operation, inputs in OPERATIONS:
            more = {"backup_dir": str(kept)} if operation.startswith("libvirt_backup") else {}
            course.operate(operation, {**inputs, **more})
        assert {one.name for one in kept.rglob("p1/*")} >= {"manifest.json", "domain.xml", "vda.qcow2"}
        (made,) = host.domain("vm").listAllSnapshots()
        assert made.getName().endswith("-one") and not host.domain("vm").listAllCheckpoints(), "apply let it go"
        seed = kept / "bad/vm/p1/sda.iso"
        assert search.holders(kept) == {seed: {"cloud-init password", "user data"}}, "the seed's, no other"
        assert stat.S_IMODE(seed.stat().st_mode) == 0o600
        course.show()
        change(course, later)
        lose_and_heal(course)
        orphan(course)
        course.run("node-instances", "-b", "bad")
        course.show()
        look_at_files(course, cache, tmp_path_factory.getbasetemp())
    finally:
        course.hear(course.cfy.uninstall("bad", check=False).output)
    assert course.leaks == set()
    assert not search.holders(SHELF)
    planted = len(CANARIES) - len(failing())
    print(f"\ncanaries: {planted} planted, 0 found in {course.told} answers and {search.files} files")


def change(course: Course, later: dict[str, Any]) -> None:
    """Plan and make an update that brings other secrets; what is not as declared is told before it."""
    path = course.attempt.blueprint(later, {})
    assert json.loads(course.tool("drift", "bad", "--json", code=NOTHING)) == []
    planned = course.tool("plan", path, "-b", "bad", "--xml", "--json", code=FOUND)
    assert "graphics" in planned and "machine, updated" in planned
    said = course.start("update", blueprint=str(path), allow_restart=True)
    assert "update" in said and course.host.domain("vm").isActive()
    shown = course.host.domain("vm").XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    assert found_in(shown.encode()) == {"screen, updated"}, "the update brought it"


def lose_and_heal(course: Course) -> None:
    domain = course.host.domain("vm")
    uuid = domain.UUIDString()
    domain.destroy()
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
    assert "domain 'vm'" in course.tool("drift", "bad", code=FOUND)
    course.run("executions", "start", "check_status", "-b", "bad", code=1)
    course.run("executions", "start", "heal", "-b", "bad", "-p", "allow_reinstall=false")
    assert course.host.domain("vm").UUIDString() == uuid and course.host.domain("vm").isActive()
    assert "screen, updated" in found_in(course.host.domain("vm").XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE).encode())


def orphan(course: Course) -> None:
    """All is listed as nobody's while the engine's state is away."""
    assert json.loads(course.tool("orphans", "--json", code=NOTHING)) == []
    state = course.cfy.directory / ".cloudify/profiles/local/deployments/bad"
    away = state.rename(course.cfy.directory / ".cloudify/profiles/local/away")
    try:
        listed = json.loads(course.tool("orphans", "--json", code=FOUND))
    finally:
        away.rename(state)
    assert {row["name"] for row in listed} >= {"vm", "shelf/vault"}


def look_at_files(course: Course, cache: Path, tests: Path) -> None:
    search, home = course.search, course.cfy.directory
    on_host = search.holders(*LIBVIRTS)
    planted = set().union(*on_host.values())
    assert {"cloud-init password, updated", "user data", "screen, updated", "ISO files"} <= planted, (
        "the search is blind"
    )
    for path, names in on_host.items():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & 0o004, f"{path} with {names} is readable by everybody: {mode:o}"
    # libvirt's own files of root's, and media of the guest's.
    places = {path for path in on_host if not path.is_relative_to(IMAGES)}
    assert all("/qemu/" in str(path) and path.suffix in (".xml", ".status") for path in places), places
    assert all(path.is_relative_to(SHELF) for path in on_host if path not in places)
    # The engine keeps blueprint and inputs as they were given, and closes its directory of profiles.
    profile, stored = home / ".cloudify/profiles/local", search.holders(home)
    others = {path for path in stored if not path.is_relative_to(profile / "blueprints/bad")}
    assert len(others) < len(stored), "the search is blind"
    assert others == {profile / "deployments/bad/deployment.json", home / "kept/bad/vm/p1/sda.iso"}
    assert [path for path in stored if open_to_all(path, home)] == []
    assert search.holders(cache) == {}
    assert search.new_in_shared(tests.parent, LABS) == {}


@pytest.mark.parametrize("name", ["luns", "far"])
def test_secrets_are_not_in_errors(
    cfy: Cfy, attempt: Attempt, shelf: Any, cache: Path, web: str, watch: Watch, name: str
) -> None:
    search = Search()
    result = attempt.install({name: failing()[name]}, "--task-retries", "0")
    assert result.code == 1 and "Task failed" in result.output
    holders = search.holders(cfy.directory)
    state = [path for path in holders if "node-instances" in str(path) or "/logs/" in str(path)]
    assert search.said(result.output) == set() and state == []
    assert [path for path in holders if open_to_all(path, cfy.directory)] == []
    assert not search.holders(Path("/var/log/libvirt"))
