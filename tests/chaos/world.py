"""Everything that a run may leave behind, seen with no code of the product, and without what differs by its nature."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import libvirt
from lxml import etree

IMAGES = Path("/var/lib/libvirt/images")
PLACES = (IMAGES, Path("/var/lib/libvirt/qemu/nvram"), Path("/var/lib/libvirt/qemu/save"),
          Path("/var/lib/libvirt/qemu/snapshot"), Path("/var/lib/libvirt/qemu/checkpoint"))  # fmt: skip
# Numbers of room in use, and times: of the moment, not of what was made.
VOLATILE = ("allocation", "available", "physical", "timestamps", "clusterSize", "features", "compat")
MOMENTS = frozenset(
    {"started_at", "shutdown_asked_at", "stale_leases", "stat", "adopted", "created", "origin", "bytes"}
)
# What libvirt keeps of snapshots and checkpoints has times in it, and what QEMU wrote differs though it means the same.
WRITTEN = ("/qemu/snapshot/", "/qemu/checkpoint/", "-root.qcow2")

TAP = re.compile(r"(vnet|tap)\d+$")
INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE

World = dict[str, Any]


def steady(xml: str) -> str:
    """A document without what changes by itself."""
    root = etree.fromstring(xml)
    for name in VOLATILE:
        for element in root.findall(f".//{name}"):
            element.getparent().remove(element)
    # What libvirt took it for when it last looked, in a thread of its own.
    if root.tag == "volume" and root.findtext("name", "").endswith("-seed.iso"):
        for element in root.findall("target/format"):
            element.getparent().remove(element)
    # libvirt throws a die for a bridge's address.
    if root.tag == "network":
        for element in root.findall("mac"):
            root.remove(element)
    return etree.tostring(root).decode()


def timeless(value: Any) -> Any:
    """A journal without the moments in it; documents in it without what changes by itself."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in MOMENTS}
    if isinstance(value, list):
        return [timeless(one) for one in value]
    return steady(value) if isinstance(value, str) and value.startswith("<") else value


def digest(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()[:16]


def seen_by_guest(disk: Path) -> str:
    """What a guest finds on a disk that may be in use, and the disk's snapshots and bitmaps."""
    with tempfile.NamedTemporaryFile(dir="/tmp") as raw:
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", disk, raw.name], check=True)
        found = digest(Path(raw.name))
    said = subprocess.run(["qemu-img", "info", "-U", "--output=json", disk], check=True, capture_output=True).stdout
    facts = json.loads(said)
    data = facts.get("format-specific", {}).get("data", {})
    return f"{found} {facts.get('backing-filename')} {len(facts.get('snapshots', []))} {len(data.get('bitmaps', []))}"


class Instances:
    """The engine's random ids of node instances, exchanged for their nodes' names and numbers."""

    def __init__(self, home: Path, deployment: str) -> None:
        self.states: dict[str, dict[str, Any]] = {}
        directory = home / ".cloudify/profiles/local/deployments" / deployment / "node-instances"
        found = [json.loads(path.read_text()) for path in directory.glob("*.json")] if directory.is_dir() else []
        self.names = {str(one["id"]): f"{one['node_id']}-{one['runtime_properties'].get('index', 0)}" for one in found}
        for one in found:
            kept = json.loads(self.steady(json.dumps(timeless(one["runtime_properties"]))))
            self.states[self.names[str(one["id"])]] = {"state": one.get("state"), **kept}

    def steady(self, text: str) -> str:
        for identifier, name in self.names.items():
            text = text.replace(identifier, name)
        return text


def look(home: Path, deployment: str) -> World:
    """All that must be the same, however often a run was killed."""
    connection = libvirt.open("qemu:///system")
    names = Instances(home, deployment)
    pools = connection.listAllStoragePools()
    try:
        return {
            "domains": {one.name(): {
                "xml": names.steady(steady(one.XMLDesc(INACTIVE))),
                "state": one.state()[0], "autostart": one.autostart(), "saved": one.hasManagedSaveImage(),
                "snapshots": sorted(map(names.steady, one.snapshotListNames())),
                "checkpoints": len(one.listAllCheckpoints()),
                "job": one.jobInfo()[0] if one.isActive() else 0,
            } for one in connection.listAllDomains()},
            "networks": {one.name(): {
                "xml": names.steady(steady(one.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))), "active": one.isActive(),
                "autostart": one.autostart(), "bridge": one.bridgeName(),
            } for one in connection.listAllNetworks()},
            "pools": {one.name(): {
                "xml": steady(one.XMLDesc()), "active": one.isActive(), "autostart": one.autostart(),
                "volumes": {volume.name(): steady(volume.XMLDesc()) for volume in one.listAllVolumes()},
            } for one in pools},
            "secrets": sorted(one.UUIDString() for one in connection.listAllSecrets()),
            "filters": sorted(one.name() for one in connection.listAllNWFilters() if "cluster" in one.name()),
            "files": {names.steady(path): found for path, found in files().items()},
            "backups": backups(home),
            "links": sorted(link.name for link in Path("/sys/class/net").iterdir() if not TAP.match(link.name)),
            "processes": processes(),
            "instances": names.states,
            "ledger": ledger(home, names),
            "drafts": drafts(home, deployment),
        }  # fmt: skip
    finally:
        connection.close()


def files() -> dict[str, str]:
    """Each file below libvirt's directories, with what it holds; what a running guest writes has only a name."""
    found = {}
    for place in PLACES:
        for path in sorted(place.rglob("*")) if place.exists() else []:
            found[str(path)] = "" if path.is_dir() or not path.is_file() else held(path)
    return found


def held(path: Path) -> str:
    if not any(part in str(path) for part in WRITTEN):
        return digest(path)
    return seen_by_guest(path) if path.suffix == ".qcow2" else ""


def backups(home: Path) -> list[str]:
    """The files of all backups, drafts included."""
    found = (home / "backups").rglob("*")
    return sorted(str(path.relative_to(home)) for path in found if path.suffix != ".lock")


def processes() -> list[str]:
    """The programs that work for libvirt, and those that a killed run may have left."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            name = Path(words[0]).name
            if name.startswith(("qemu-img", "genisoimage", "ssh")) and name != "sshd":
                found.append(" ".join(words[:4]))
            elif name.startswith("qemu-system"):
                found.append(next((word for word in words if word.startswith("guest=")), name))
            elif name == "dnsmasq":
                found.append(" ".join(word for word in words if "conf-file" in word))
    return sorted(set(found))


def ledger(home: Path, names: Instances) -> list[str]:
    """What the orchestrator's journal names, by node and number."""
    found = []
    for path in (home / "state").rglob("ledger/*/*.json"):
        entry = json.loads(path.read_text())
        journal = timeless(entry["journal"])
        found.append(names.steady(json.dumps([entry["node"], entry["number"], entry["kind"], journal], sort_keys=True)))
    return sorted(found)


def drafts(home: Path, deployment: str) -> list[str]:
    """Files of the orchestrator that were begun and not published, but for the one that cfy's next run replaces."""
    local = home / ".cloudify/profiles/local/deployments"
    left = [*local.glob("*/.*.json"), *local.glob(".*"), *(home / "state").rglob("ledger/tmp*")]
    left += [path for path in (home / "cache").rglob("partial/*") if path.suffix != ".lock"]
    left = [path for path in left if path.name != ".executions.json"]
    return sorted(re.sub(r"tmp\w+|[a-z0-9]{6}\.json", "*", str(path.relative_to(home))) for path in left)


def differences(wanted: Any, found: Any, at: str = "") -> list[str]:
    """Say where two worlds differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            line
            for key in sorted(wanted.keys() | found.keys())
            for line in differences(wanted.get(key, "(none)"), found.get(key, "(none)"), f"{at}/{key}")
        ]
    if wanted == found:
        return []
    return [f"{at}: {str(found)[:1500]} in place of {str(wanted)[:1500]}"]
