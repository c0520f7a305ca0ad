"""A copy of a machine made of its backup: cloud-init's seed is its own, so that one can log into it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cloudify_libvirt.core.backup import seeds
from tests.real.conftest import BLUEPRINTS, ROOT, Cfy, Host, public_key, ssh, virsh


def leased(network: str, mac: str) -> str:
    """The address that a card got."""
    deadline = time.monotonic() + 240
    while True:
        found = re.search(rf"{mac}\s+ipv4\s+([\d.]+)/", virsh("net-dhcp-leases", network))
        if found:
            return found[1]
        assert time.monotonic() < deadline
        time.sleep(0.3)


def drives(host: Host, name: str) -> tuple[str, Path]:
    """The MAC address of a domain's card, and what is in its CD-ROM drive."""
    root = ElementTree.fromstring(host.domain(name).XMLDesc())
    card, medium = root.find("devices/interface/mac"), root.find("devices/disk[@device='cdrom']/source")
    assert card is not None and medium is not None
    return str(card.get("address")), Path(str(medium.get("file")))


def told(cfy: Cfy, *words: object) -> dict[str, Any]:
    """What cfy-libvirt says to programs."""
    call = [ROOT / ".venv/bin/cfy-libvirt", *map(str, words), "--json"]
    done = subprocess.run(call, env=cfy.environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_one_logs_into_a_copy(cfy: Cfy, tiny: Path, key: Path, clean_host: Host) -> None:
    cfy.install(BLUEPRINTS / "hello.yaml", "seeded", image=str(tiny), ssh_public_key=public_key(key), ssh_user="root",
                memory="128 MiB")  # fmt: skip
    # In a pool, a file is a volume that may be padded.
    backups = ("hello", "--pool", "hello")
    made = told(cfy, "backup", "create", *backups)
    (entry,) = made["beside"]
    assert entry["kind"] == "seed" and entry["file"].endswith(".iso")
    assert told(cfy, "backup", "verify", *backups)["sound"]

    done = told(cfy, "backup", "restore", *backups, "--as", "copy")
    assert done["lacking"] == []
    try:
        (mac, seed), (old_mac, old_seed) = drives(clean_host, "copy"), drives(clean_host, "hello")
        assert seed != old_seed and mac != old_mac
        before, after = (dict(seeds._files(path.read_bytes())) for path in (old_seed, seed))
        assert done["uuid"].encode() in after["meta-data"] and done["uuid"].encode() not in before["meta-data"]
        assert before.keys() == after.keys()
        virsh("start", "copy")
        address = leased("hello", mac)
        assert ssh(key, address, "hostname", wait_s=120) == "copy"
        assert ssh(key, str(cfy.outputs("seeded")["address"]), "hostname") == "hello"
        assert address != cfy.outputs("seeded")["address"]
    finally:
        clean_host.domain("copy").destroy()
        virsh("undefine", "copy")
        for name in ("vda.qcow2", entry["file"]):
            virsh("vol-delete", f"restore-{done['uuid']}-{name}", "--pool", "hello")
    told(cfy, "backup", "delete", *backups, "--point", made["point"], "--yes")
    cfy.uninstall("seeded")
