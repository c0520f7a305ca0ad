"""Steps of a network's life."""

from __future__ import annotations

import ipaddress

from cloudify_libvirt.binding import claim, find_external
from cloudify_libvirt.core import network as host_networks
from cloudify_libvirt.core.errors import Conflict, InvalidSpec
from cloudify_libvirt.core.host.lock import host_lock
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec import NetworkSpec
from cloudify_libvirt.core.spec.variables import NetworkFacts
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared


def check_name(request: Request) -> None:
    """Refuse a name that is taken."""
    Network.check_free(request.session, request.name, request.params["instance_uuid"])


def check_place(request: Request) -> None:
    """Refuse a bridge or subnets that are taken, and devices that the host lacks."""
    label = Network.label(request.name, request.session)
    _check_collisions(request.session, request.draft, request.params["instance_uuid"], label)


def create(request: Request) -> None:
    """Find the existing network, or define and start ours."""
    if request.external and find_external(Network, request):
        return
    claim(Network, request)
    # Bridge and subnet are looked for and taken under one lock: nobody takes them in between.
    with host_lock(request.uri, "networks"):
        make(request)


def make(request: Request) -> None:
    """Define and start what was claimed; the lock of the host's networks is the caller's."""
    uuid = str(request.params["instance_uuid"])
    declared.keep_template(request)
    xml = request.render("network.xml.j2", "network", facts(request, uuid))
    request.record.assign(declared=xml)
    network = Network.define(request.session, xml, request.name, uuid)
    network.autostart(request.spec.autostart)
    network.start()
    request.record.put(bridge=network.facts().bridge)
    request.record.note(f"started {network.target} with bridge {network.facts().bridge}")


def facts(request: Request, uuid: str) -> NetworkFacts:
    """Return the subnets and the bridge's name, checked against the host."""
    spec, session, label = request.spec, request.session, Network.label(request.name, request.session)
    _check_collisions(session, spec, uuid, label)
    cidr, cidr6 = spec.cidr or "", spec.cidr6 or ""
    if cidr == "auto":
        cidr = request.record.get("cidr") or host_networks.free_subnet(session, uuid, int(uuid[:8], 16), label)
    if cidr6 == "auto":
        cidr6 = request.record.get("cidr6") or host_networks.free_subnet6(session, uuid, int(uuid[-10:], 16), label)
    _check_inside(spec.expanded(cidr, cidr6), label)
    bridge = spec.dev or _free_bridge(request, uuid, spec)
    request.record.put(cidr=cidr, cidr6=cidr6, bridge=bridge)
    return NetworkFacts(uuid=uuid, bridge=bridge, cidr=cidr, cidr6=cidr6, mark=request.mark)


def _check_inside(full: NetworkSpec, label: str) -> None:
    """Raise when a fixed address or a route is outside of the subnets that were chosen."""
    subnets = ", ".join(str(entry.reach) for entry in full.ips) or "none"
    served = [host["ip"] for entry in full.ips for host in full.hosts_of(entry)]
    outside = [host.ip for host in full.hosts if host.ip not in served]
    reached = [entry.reach for entry in full.ips]
    outside += [one.via for one in full.routes if not any(ipaddress.ip_address(one.via) in net for net in reached)]
    if outside:
        reason = f"{outside[0]} is outside of its subnets ({subnets})"
        raise InvalidSpec("define", label, reason, "Give a certain cidr and cidr6 instead of auto.")


def _check_collisions(session: Session, spec: NetworkSpec, uuid: str, label: str) -> None:
    mine = Network.find_by_uuid(session, uuid)
    if mine is not None and mine.active:
        return
    if not spec.linux_bridge:
        check_host(session, spec, label)
        return
    if spec.dev:
        host_networks.check_bridge(session, uuid, spec.dev, label)
    full = spec.expanded(*(cidr if cidr != "auto" else "" for cidr in (spec.cidr or "", spec.cidr6 or "")))
    host_networks.check_subnets(session, uuid, [entry.reach for entry in full.ips], label)
    host_networks.check_routes(session, uuid, [ipaddress.ip_network(route.to) for route in spec.routes], label)


def check_host(session: Session, spec: NetworkSpec, label: str) -> None:
    """Raise when the host lacks the bridge or the devices that the network stands on."""
    if spec.dev:
        host_networks.check_host_bridge(session, spec.dev, openvswitch=spec.virtualport is not None, label=label)
    for forward in spec.forwards:
        host_networks.check_devices(session, [*forward.devices, *([forward.pf] if forward.pf else [])], label)


def _free_bridge(request: Request, uuid: str, spec: NetworkSpec) -> str:
    if not spec.linux_bridge:
        return ""
    recorded = request.record.get("bridge")
    if recorded:
        return str(recorded)
    taken = host_networks.taken_bridges(request.session, uuid)
    names = (request.identity.bridge(attempt) for attempt in range(100))
    free = next((name for name in names if name not in taken), None)
    if free is None:
        raise Conflict(
            "choose a bridge for",
            Network.label(request.name, request.session),
            "a hundred derived names are taken",
            "Give params.dev.",
        )
    return free


def delete(network: Network | None, request: Request) -> None:
    """Deactivate and undefine the network; a network that foreign domains run on is left, with a warning."""
    if network is None:
        return
    users = network.users()
    if users:
        request.record.warn(f"left {network.target} alone: running domains are on it: {', '.join(users[:5])}")
        return
    network.stop()
    network.undefine()
