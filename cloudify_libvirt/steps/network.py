"""Steps of a network's life."""

from __future__ import annotations

from cloudify_libvirt.binding import claim, find_external
from cloudify_libvirt.core import network as host_networks
from cloudify_libvirt.core.errors import Conflict
from cloudify_libvirt.core.hostlock import host_lock
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.spec import NetworkSpec
from cloudify_libvirt.core.spec.variables import NetworkFacts
from cloudify_libvirt.request import Request

# Forward modes in which the named bridge or interface is the host's own, not one that libvirt makes.
_HOST_BRIDGES = frozenset({"bridge", "private", "vepa", "passthrough", "hostdev"})


def check(request: Request) -> None:
    """Refuse what cannot work, before anything is made."""
    if not request.external:
        uuid = request.params["instance_uuid"]
        Network.check_free(request.session, request.name, uuid)
        _check_collisions(request.session, request.draft, uuid, Network.label(request.name, request.session))


def create(request: Request) -> None:
    """Find the existing network, or define and start ours."""
    if request.external and find_external(Network, request):
        return
    uuid = claim(Network, request)
    # Bridge and subnet are looked for and taken under one lock: nobody takes them in between.
    with host_lock(request.uri, "networks"):
        xml = request.render("network.xml.j2", "network", _facts(request, uuid))
        network = Network.define(request.session, xml, request.name, uuid)
        network.autostart(request.spec.autostart)
        network.start()
    request.record.put(bridge=network.facts().bridge)
    request.record.note(f"started {network.target} with bridge {network.facts().bridge}")


def _facts(request: Request, uuid: str) -> NetworkFacts:
    """Return the subnet and the bridge's name, both checked against the host."""
    spec, session, label = request.spec, request.session, Network.label(request.name, request.session)
    _check_collisions(session, spec, uuid, label)
    cidr = spec.cidr or ""
    if cidr == "auto":
        cidr = request.record.get("cidr") or host_networks.free_subnet(session, uuid, int(uuid[:8], 16), label)
    bridge = spec.dev or _free_bridge(request, uuid, spec)
    request.record.put(cidr=cidr, bridge=bridge)
    return NetworkFacts(uuid=uuid, bridge=bridge, cidr=cidr, mark=request.mark)


def _check_collisions(session: Session, spec: NetworkSpec, uuid: str, label: str) -> None:
    mine = Network.find_by_uuid(session, uuid)
    if mine is not None and mine.active:
        return
    if spec.dev and not _uses_host_bridge(spec):
        host_networks.check_bridge(session, uuid, spec.dev, label)
    if spec.cidr != "auto":
        full = spec.expanded(spec.cidr) if spec.cidr else spec
        host_networks.check_subnets(session, uuid, [entry.reach for entry in full.ips], label)


def _uses_host_bridge(spec: NetworkSpec) -> bool:
    return any(forward.mode in _HOST_BRIDGES for forward in spec.forwards)


def _free_bridge(request: Request, uuid: str, spec: NetworkSpec) -> str:
    if _uses_host_bridge(spec):
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
