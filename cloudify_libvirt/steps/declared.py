"""What a node declares today, as the documents that would be defined now; nothing is fetched, made or written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.drift.compare import LIVE, Difference, Subject
from cloudify_libvirt.core.drift.rules import REMOVABLE, content, key, local
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.snapshot import overlay
from cloudify_libvirt.core.spec.variables import Backing, NetworkFacts, PoolFacts, VolumeFacts
from cloudify_libvirt.core.update import listed
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import machine

_TEMPLATE = ("template_resource", "template_content")
_PART_NAMES = {"root": "image", "rootfs": "image", "seed": "cloud_init"}


def keep_template(request: Request) -> None:
    """Record the template that an operation got as its input: later ones get none."""
    given = {name: request.inputs[name] for name in _TEMPLATE if request.inputs.get(name)}
    if given or request.record.get("rendered_by"):
        request.record.assign(rendered_by=given)


def of_today(request: Request) -> Request:
    """Return the request as if the operation that rendered the document ran now, writing nothing."""
    kept = request.record.get("rendered_by") or {}
    return type(request)(request.ctx, request.kind, {**kept, **request.inputs}, records=False)


def domain(request: Request) -> tuple[machine.Plan, str]:
    """Return plan and definition of the domain."""
    plan = machine.as_recorded(request)
    return plan, machine.xml(request, plan)


def network(request: Request) -> str:
    """Return the network's definition; what was chosen for ``auto`` stays."""
    spec, record = request.spec, request.record
    cidr, cidr6 = (
        record.get(name) or "" if getattr(spec, name) == "auto" else getattr(spec, name) or ""
        for name in ("cidr", "cidr6")
    )
    bridge = spec.dev or (record.get("bridge") or "" if spec.linux_bridge else "")
    facts = NetworkFacts(str(record.get("uuid")), str(bridge), str(cidr), str(cidr6), request.mark)
    return request.render("network.xml.j2", "network", facts)


def pool(request: Request) -> str:
    """Return the pool's definition."""
    facts = PoolFacts(str(request.record.get("uuid")), str(request.record.get("secret") or ""))
    return request.render("pool.xml.j2", "storagepool", facts)


def volume(request: Request, there: Volume, capacity_bytes: int | None) -> str:
    """Return the volume's definition; size and format that nobody declared are those that it has."""
    found, spec = there.facts(), request.spec
    known = stored_as(request) or (found.format if found.format in ("qcow2", "raw", "dir") else "raw")
    # Only that an overlay stands on something is declared; what that is, its content says.
    below = Backing(found.backing, found.backing_format or "raw") if spec.is_overlay and found.backing else None
    facts = VolumeFacts(
        capacity_bytes or found.capacity_bytes, 0, spec.format or known, below, str(request.record.get("secret") or "")
    )
    return request.render("volume.xml.j2", "storagevol", facts)


def stored_as(request: Request) -> str:
    """Return the format that the volume was made in; "" where a former release made it."""
    return str((request.record.get("made_as") or {}).get("stored") or "")


def subject(request: Request, label: str, plan: machine.Plan, xml: str, found: Domain) -> Subject:
    """Return how the parts of the domain that was found are called, and what stands for them."""
    own = {part.path: _PART_NAMES[part.kind] for part in plan.parts}
    names, numbers = {}, {"disk": 0, "filesystem": 0, "interface": 0}
    lists = {"disk": "disks", "filesystem": "disks", "interface": "networks"}
    for element in parse.document(xml).iterfind("devices/*"):
        kind = local(element)
        if kind not in numbers:
            continue
        called = own.get(_path(element))
        if called is None:
            called = f"{lists[kind]}[{numbers[kind]}]"
            numbers[kind] += 1
        names[f"{kind} {key(element)}"] = called
    root = parse.document(xml)
    # A template of the user's may have none.
    dimms = bool(request.spec.memory_slots) and root.find("maxMemory") is not None
    instead = _instead(request, root, found)
    return Subject("domain", label, names, instead, frozenset(request.record.get("attached") or ()), dimms)


def devices(request: Request) -> list[str]:
    """Return the devices that were declared last; see ``listed``."""
    return list(request.record.get("declared") or [])


def remember(request: Request, wanted: Any) -> None:
    """Record the devices of a definition before it is made; those of before stay known, as they may still be there."""
    now = listed.listed(wanted)
    request.record.put(declared=[*now, *listed.taken_back(devices(request), now)])


def _instead(request: Request, wanted: Any, found: Domain) -> dict[str, frozenset[str]]:
    """Return by declared content what a disk has in its place: snapshots, whoever made them."""
    files = set(request.record.get("snapshot_files") or ())
    known = ({content(disk) for disk in wanted.findall("devices/disk")} | listed.contents(devices(request))) - {""}
    instead = {one: set(files) for one in known}
    for text in (found.definition(), *([found.xml()] if found.active else [])):
        for disk in parse.document(text).findall("devices/disk"):
            above = content(disk)
            if above and above not in known | files and disk.get("device") not in REMOVABLE:
                for below in known.intersection(_below(found, disk)):
                    instead[below].add(above)
    return {one: frozenset(above) for one, above in instead.items() if above}


def top_of(found: Domain, path: str) -> str:
    """Return the file that the domain uses where one stands on the given; else the given."""
    fixed = [one for one in parse.document(found.xml()).findall("devices/disk") if one.get("device") not in REMOVABLE]
    if any(content(disk) == path for disk in fixed):
        return path
    return next((content(disk) for disk in fixed if path in _below(found, disk)), path)


def _below(found: Domain, disk: Any) -> Iterator[str]:
    """Yield what a disk stands on, as the running guest has it, and as its file says."""
    yield from map(content, disk.iter("backingStore"))
    driver = disk.find("driver")
    # Of raw content nothing stands below, whatever a guest wrote there.
    if disk.get("type") == "file" and (driver is None or driver.get("type") != "raw"):
        try:
            yield from overlay.chain(found.session, content(disk))
        except CoreError as error:
            # What nobody can look into stands for nothing.
            if error.retryable:
                raise


def implied(spec: Any, found: Difference) -> bool:
    """Tell whether a difference is no more than follows from what is declared.

    A maximum that nobody declared may be larger; and a running machine has the slots that it started with.
    """
    if found.field == "controller":
        return found.where == LIVE and "pcie-root-port" in str(found.declared)
    given = {"max_vcpu": spec.max_vcpu, "max_memory": spec.max_memory or spec.memory_maxsize}
    if found.field not in given or given[found.field]:
        return False
    return str(found.found).isdecimal() and int(found.found) >= int(found.declared)


def _path(element: Any) -> str:
    source = element.find("source")
    return "" if source is None else str(source.get("file") or source.get("dir") or "")
