"""Secrets planted everywhere a blueprint may hold one, and then looked for everywhere else."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.real.attempts import SHELF, node, vm
from tests.real.conftest import IMAGES, Cfy, Host
from tests.real.test_volumes_key import Watch

# By the place that it is planted in; VNC takes 8 characters.
CANARIES = {
    "cloud-init password": "canary-0a-cloud-password",
    "user data": "canary-0b-user-data",
    "screen": "can-0c-8",
    "key of a disk": "canary-0d-luks-passphrase",
    "CHAP": "canary-0e-chap-password",
    "image URL": "canary-0f-url-password",
    "URI": "canary-10-uri-password",
    "ISO files": "canary-11-iso-content",
}
LOGS = (Path("/var/log/libvirt"), Path("/run/libvirt"), Path("/etc/libvirt"), Path("/var/lib/libvirt"))


# What is done with the machine while the secrets are there; none of it may fail, or it would prove nothing.
OPERATIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("libvirt_backup.create", {"backup_point": "p1"}),
    ("libvirt_backup.verify", {"backup_deep": True}),
    ("libvirt_backup.list", {}),
    ("snapshot.create", {"snapshot_name": "one"}),
    ("snapshot.check", {"snapshot_name": "one"}),
    ("snapshot.apply", {"snapshot_name": "one"}),
)


def forms(canary: str) -> list[bytes]:
    return [canary.encode(), base64.b64encode(canary.encode())]


def found_in(content: bytes) -> set[str]:
    return {name for name, canary in CANARIES.items() if any(form in content for form in forms(canary))}


def holders(*places: Path) -> dict[Path, set[str]]:
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path: found for path in files if (found := found_in(path.read_bytes()))}


def documents(host: Host) -> str:
    """All that libvirt shows without its flag for secrets."""
    connection = host.connection
    domains = connection.listAllDomains()
    every: list[Any] = [*domains, *connection.listAllNetworks(), *connection.listAllStoragePools()]
    volumes = [
        volume for pool in connection.listAllStoragePools() if pool.isActive() for volume in pool.listAllVolumes()
    ]
    inactive = [domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) for domain in domains]
    return "".join([thing.XMLDesc(0) for thing in [*every, *volumes, *connection.listAllSecrets()]] + inactive)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr("tests.real.test_volumes_key.FORMS", {form for c in CANARIES.values() for form in forms(c)})
    with Watch() as watch:
        yield watch
    assert watch.looks > 3
    assert watch.seen == set()


def nodes(web: str) -> dict[str, Any]:
    url = web.replace("http://", f"http://me:{CANARIES['image URL']}@")
    machine = vm(
        image={"source": f"{url}/tiny.qcow2"}, pool="shelf",
        graphics=[{"type": "vnc", "password": CANARIES["screen"]}],
        cloud_init={"user_data": {"password": CANARIES["cloud-init password"], "runcmd": [CANARIES["user data"]]}},
    )  # fmt: skip
    vault = node("volume", name="vault", pool="shelf", params={"name": "vault", "pool": "shelf", "size": "8 MiB",
                 "encryption": {"passphrase": CANARIES["key of a disk"]}})  # fmt: skip
    vault["properties"].pop("name"), vault["properties"].pop("pool")
    luns = node(
        "pool",
        params={
            "name": "luns", "type": "iscsi",
            "source": {"host": "127.0.0.1", "device": "iqn.2026-01.org.example:none"}, "path": "/dev/disk/by-path",
            "auth": {"username": "me", "password": CANARIES["CHAP"]},
        },
    )  # fmt: skip
    far = node("network", params={"name": "far"}, libvirt_auth=f"qemu+tcp://me:{CANARIES['URI']}@127.0.0.1:1/system")
    return {"machine": machine, "vault": vault, "luns": luns, "far": far}


def test_secrets_are_nowhere_but_where_they_must_be(
    cfy: Cfy, host: Host, attempt: Any, shelf: Any, cache: Path, web: str, watch: Watch
) -> None:
    planted = nodes(web)
    medium = node("volume", params={"name": "medium", "pool": "shelf", "size": "2 MiB"})
    files = node("ISO9660", params={"pool": "shelf", "volume": "medium", "files": {"secret": CANARIES["ISO files"]}})
    files["relationships"] = [{"type": "cloudify.relationships.depends_on", "target": "medium"}]
    good = {"machine": planted["machine"], "vault": planted["vault"], "medium": medium, "files": files}
    said = ""
    try:
        result = attempt.install(good)
        said += result.output
        assert result.code == 0, result.output[-3000:]
        said += cfy("workflows", "list", "-b", "bad", check=False).output
        kept = cfy.directory / "kept"
        for operation, inputs in OPERATIONS:
            asked = {"operation": f"cloudify.interfaces.{operation}", "node_ids": ["machine"],
                     "operation_kwargs": inputs, "allow_kwargs_override": True}  # fmt: skip
            if operation.startswith("libvirt_backup"):
                asked["operation_kwargs"] = {**inputs, "backup_dir": str(kept)}
            done = cfy("executions", "start", "execute_operation", "-b", "bad", "-p", json.dumps(asked), check=False)
            said += done.output
            assert done.code == 0, (operation, done.output[-3000:])
        assert {path.name for path in kept.rglob("p1/*")} >= {"manifest.json", "domain.xml", "vda.qcow2"}
        (made,) = host.domain("vm").listAllSnapshots()
        assert made.getName().endswith("-one") and not host.domain("vm").listAllCheckpoints(), "apply let it go"
        assert holders(kept) == {kept / "bad/vm/p1/sda.iso": {"cloud-init password", "user data"}}, (
            "the seed's, no other"
        )
        assert stat.S_IMODE((kept / "bad/vm/p1/sda.iso").stat().st_mode) == 0o600
        said += cfy("node-instances", "-b", "bad").output
        assert found_in(documents(host).encode()) == set()
        on_host = holders(*LOGS)
        planted_on_host = set().union(*on_host.values())
        assert {"cloud-init password", "user data", "screen", "ISO files"} <= planted_on_host, "the search is blind"
        for path, names in on_host.items():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert not mode & 0o004, f"{path} with {names} is readable by everybody: {mode:o}"
        # libvirt's own files of root's, and media of the guest's.
        places = {path for path in on_host if not path.is_relative_to(IMAGES)}
        assert all("/qemu/" in str(path) and path.suffix in (".xml", ".status") for path in places), places
        assert all(path.is_relative_to(SHELF) for path in on_host if path not in places)
        stored = [path for path in holders(cfy.directory) if "node-instances" in str(path) or "/logs/" in str(path)]
        assert stored == []
    finally:
        said += cfy.uninstall("bad", check=False).output
    assert found_in(said.encode()) == set()
    assert not holders(SHELF)


@pytest.mark.parametrize("name", ["luns", "far"])
def test_secrets_are_not_in_errors(
    cfy: Cfy, attempt: Any, shelf: Any, cache: Path, web: str, watch: Watch, name: str
) -> None:
    result = attempt.install({name: nodes(web)[name]}, "--task-retries", "0")
    assert result.code == 1 and "Task failed" in result.output
    state = [path for path in holders(cfy.directory) if "node-instances" in str(path) or "/logs/" in str(path)]
    assert found_in(result.output.encode()) == set() and state == []
    assert not holders(Path("/var/log/libvirt"))
