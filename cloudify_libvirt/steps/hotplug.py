"""One device of a domain that exists: from a template of the user's, or from the parameters of one device."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cloudify_libvirt.core import parse
from cloudify_libvirt.core.document.render import TemplateSource, render
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.host import preflight
from cloudify_libvirt.core.identity import normalise_mac
from cloudify_libvirt.core.spec import Disk, parse_spec
from cloudify_libvirt.core.spec.disk_network import NetworkDisk
from cloudify_libvirt.core.spec.variables import DomainFacts, template_variables
from cloudify_libvirt.core.units import parse_seconds
from cloudify_libvirt.core.update import hotplug
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps.disk_source import with_path

# Beyond every card that a definition starts with.
_FIRST_CARD = 1_000_000
# The definition that a device is taken from is never used itself.
_ANY_MEMORY_KIB = 1024
_WHAT = "Give a template of one device, or params with one device: one entry of disks, networks, devices, ..."


def attach(domain: Domain, request: Request) -> None:
    """Attach the device, now and for the next start."""
    xml = device_xml(domain, request)
    label = hotplug.Device.read(xml).label
    with _its_mac(domain, request, xml):
        done = hotplug.attach(domain, xml)
        domain.session.touch(domain.uuid)
    if done:
        request.record.note(f"attached {label} to {domain.name}")
    else:
        request.record.note(f"{domain.name} has {label} already")
    _attached(request, label, True)
    _pending(request, label, False)


def _its_mac(domain: Domain, request: Request, xml: str) -> AbstractContextManager[None]:
    """Hold the MAC of a card, so that nobody takes it meanwhile; libvirt itself compares none."""
    mac = parse.document(xml).find("mac")
    if mac is None or not mac.get("address"):
        return nullcontext()
    return preflight.mac_for(
        request.session, request.uri, domain.uuid, normalise_mac(mac.get("address")), domain.target
    )


def update(domain: Domain, request: Request) -> None:
    """Change the device that is there to what is given."""
    xml = device_xml(domain, request)
    hotplug.update(domain, xml)
    request.record.note(f"updated {hotplug.Device.read(xml).label} of {domain.name}")


def detach(domain: Domain, request: Request) -> None:
    """Detach the device; one that the guest has not given back by the deadline is recorded as pending.

    The input ``timeout_s`` is the deadline (10 s).
    """
    xml = device_xml(domain, request, complete=False)
    label = hotplug.Device.read(xml).label
    timeout_s = parse_seconds(request.inputs.get("timeout_s") or hotplug.DETACH_TIMEOUT_S, "timeout_s")
    gone = hotplug.detach(domain, xml, timeout_s)
    if gone:
        request.record.note(f"detached {label} from {domain.name}")
    else:
        request.record.warn(
            f"{domain.name} has not given back {label} within {timeout_s:g} s: it is gone from the definition, "
            f"and from the guest when its system answers or at its next start"
        )
    _attached(request, label, False)
    _pending(request, label, not gone)


def _attached(request: Request, label: str, attached: bool) -> None:
    """Record what was attached beside the declared devices: it is no drift."""
    before = list(request.record.get("attached") or [])
    now = [*(other for other in before if other != label), *([label] if attached else [])]
    if now != before:
        request.record.put(attached=now)


def _pending(request: Request, label: str, pending: bool) -> None:
    """Record what is still attached though it should not be."""
    before = list(request.record.get("detach_pending") or [])
    now = [*(other for other in before if other != label), *([label] if pending else [])]
    if now != before:
        request.record.put(detach_pending=now)


def device_xml(domain: Domain, request: Request, *, complete: bool = True) -> str:
    """Return the checked XML of the one device that the inputs ask for."""
    if request.has_own_template:
        facts = DomainFacts(uuid=domain.uuid, domain_type=domain.facts().domain_type)
        return request.render_device(facts)
    name, entry = _one_device(request)
    # What is asked of one device must not become a parameter of the domain.
    request = Request(request.ctx, request.kind, {key: v for key, v in request.inputs.items() if key != "params"})
    # The device is what the packaged template adds for it to the domain's others.
    before, after = (_devices(domain, request, name, value, complete) for value in (None, entry))
    added = [text for text in after if text not in before]
    # The controller that it may need comes by libvirt.
    found = [text for text in added if not text.startswith("<controller")] or added
    if len(found) != 1:
        raise InvalidSpec("read", f"the device for {request.label}", f"params.{name} names {len(found)} devices", _WHAT)
    return found[0]


def _one_device(request: Request) -> tuple[str, Any]:
    """Return the key of the input ``params`` that has the one device, and the device."""
    given = request.inputs.get("params")
    keys = {key: value for key, value in (given or {}).items() if value} if isinstance(given, Mapping) else {}
    name = next(iter(keys), "")
    value = keys.get(name)
    if len(keys) != 1 or (isinstance(value, list) and len(value) != 1):
        raise InvalidSpec("read", f"the device for {request.label}", "the inputs name no device, or several", _WHAT)
    return name, copy.deepcopy(value)


def _devices(domain: Domain, request: Request, name: str, value: Any, complete: bool) -> list[str]:
    """Return the devices of a domain like this one, with the asked one when it has a value."""
    document = parse.document(_domain_with(domain, request, {name: value} if value else {}, complete))
    return [hotplug.as_text(element) for element in document.find("devices")]


def _domain_with(domain: Domain, request: Request, wish: dict[str, Any], complete: bool) -> str:
    facts = domain.facts()
    for card in wish.get("networks") or []:
        card["mac"] = card.get("mac") or _mac(request, card)
    hardware = "modern" if request.draft.modern else "classic"
    params = {"name": domain.name, "memory_size": _ANY_MEMORY_KIB, "hardware": hardware, **wish}
    spec = parse_spec("domain", params, node=request.ctx.node.name, extra=False, complete=complete)
    disks = tuple(_where_it_is(with_path(request, disk, request.draft.pool), facts) for disk in spec.disks)
    wanted = DomainFacts(
        uuid=domain.uuid,
        domain_type=facts.domain_type,
        machine=facts.machine,
        disks=(*_others(facts, disks), *disks),
        interfaces=spec.networks,
    )
    return render(TemplateSource(), template_variables(spec, wanted), schema="domain", node=request.ctx.node.name)


def _others(facts: parse.DomainFacts, wanted: tuple[Disk, ...]) -> list[Disk]:
    """Return the domain's other disks, which only keep their targets from being taken."""
    asked = {disk.dev for disk in wanted}
    targets = [disk.target for disk in facts.disks if disk.target and disk.target not in asked]
    return [Disk.model_construct(dev=target, file="/there") for target in targets]


def _where_it_is(disk: Disk, facts: parse.DomainFacts) -> Disk:
    """Return a disk without a target with that of the same content, if it is attached already."""
    remote = disk.network.name if isinstance(disk, NetworkDisk) else None
    wanted = {disk.file, remote} - {None}
    found = next((other.target for other in facts.disks if not wanted.isdisjoint({other.path, other.remote})), None)
    return disk if disk.dev or not found else disk.model_copy(update={"dev": found})


def _mac(request: Request, entry: dict[str, Any]) -> str:
    """Return the MAC of a card that is given none: the same each time that the same card is asked for."""
    text = repr(sorted((str(key), str(value)) for key, value in entry.items()))
    return request.identity.mac(_FIRST_CARD + zlib.crc32(text.encode()))
