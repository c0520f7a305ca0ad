"""What a node declares today, as the documents that would be defined now; nothing is fetched, made or written."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.drift.compare import LIVE, Difference, Subject
from cloudify_libvirt.core.drift.rules import key, local
from cloudify_libvirt.core.spec.variables import Backing, NetworkFacts, PoolFacts, VolumeFacts
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
    known = found.format if found.format in ("qcow2", "raw", "dir") else "raw"
    # Only that an overlay stands on something is declared; what that is, its content says.
    below = Backing(found.backing, _format_below(there)) if spec.is_overlay and found.backing else None
    facts = VolumeFacts(
        capacity_bytes or found.capacity_bytes, 0, spec.format or known, below, str(request.record.get("secret") or "")
    )
    return request.render("volume.xml.j2", "storagevol", facts)


def _format_below(there: Volume) -> str:
    element = parse.document(there.xml()).find("backingStore/format")
    return "raw" if element is None else str(element.get("type"))


def subject(request: Request, label: str, plan: machine.Plan, xml: str) -> Subject:
    """Return how the domain's parts are called, and what stands for them."""
    own = {part.path: _PART_NAMES[part.kind] for part in plan.parts}
    names, numbers = {}, {"disk": 0, "filesystem": 0, "interface": 0}
    lists = {"disk": "disks", "filesystem": "disks", "interface": "networks"}
    for element in parse.document(xml).find("devices"):
        kind = local(element)
        if kind not in numbers:
            continue
        called = own.get(_path(element))
        if called is None:
            called = f"{lists[kind]}[{numbers[kind]}]"
            numbers[kind] += 1
        names[f"{kind} {key(element)}"] = called
    files = frozenset(request.record.get("snapshot_files") or ())
    instead = {disk.path: files for disk in parse.domain(xml).disks if disk.path and files}
    return Subject("domain", label, names, instead, frozenset(request.record.get("attached") or ()))


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
