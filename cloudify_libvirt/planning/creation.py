"""What an instance that does not exist yet will be: facts and document, by the steps that will make it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError, Missing
from cloudify_libvirt.core.image.glance import glance
from cloudify_libvirt.core.image.urls import public_url
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.spec import PoolSpec, VolumeSpec
from cloudify_libvirt.core.spec.variables import PoolFacts, VolumeFacts
from cloudify_libvirt.core.spec.volume import Image
from cloudify_libvirt.core.units import check_growth
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.planning.looking import Look
from cloudify_libvirt.planning.model import Action, Entry
from cloudify_libvirt.planning.world import NotYet, PlannedVolume, World
from cloudify_libvirt.steps import images, machine, parts, validation
from cloudify_libvirt.steps import network as networks

NOUNS: dict[str, Any] = {"domain": Domain, "network": Network, "pool": Pool}
_CONTAINER = "lxc"


def describe(entry: Entry, look: Look, world: World) -> None:
    """Say what will be made, or which existing object is used; problems and what is not known yet are said, too."""
    _named(entry, look)
    if look.external and _uses(entry, look, world):
        return
    entry.action = Action.CREATE
    _attempt(entry, partial(_VALIDATIONS[look.kind], look))
    _attempt(entry, partial(_DESCRIPTIONS[look.kind], entry, look, world))
    _attempt(entry, partial(_note_older, entry, look))


def _named(entry: Entry, look: Look) -> None:
    if look.kind in NOUNS:
        entry.name, entry.uuid = look.name, str(look.params["instance_uuid"])
    elif look.kind == "volume":
        entry.name = look.name


def _attempt(entry: Entry, ask: Callable[[], None]) -> None:
    try:
        ask()
    except NotYet as error:
        entry.notes.append(f"known after install: {error.action} {error.target}: {error.reason}")
    except validation.Several as several:
        _against(entry, several.errors)
    except CoreError as error:
        _against(entry, [error])


def _against(entry: Entry, errors: Iterable[CoreError]) -> None:
    entry.problems += [text for text in dict.fromkeys(map(str, errors)) if text not in entry.problems]


def _uses(entry: Entry, look: Look, world: World) -> bool:
    """Say which existing object is used; False where none exists and one is to be made."""
    name = look.resource_id or look.name
    entry.action, entry.name, entry.uuid = Action.USE, name, None
    if look.kind == "iso9660":
        return True
    found: Any = None
    if look.kind == "volume":
        pool = Pool.find(look.session, look.wanted_pool)
        # Of a pool that is off libvirt does not tell the volumes, and a plan starts nothing.
        found = pool if pool is None or not pool.active else Volume.find(pool, name)
    else:
        found = NOUNS[look.kind].find(look.session, name)
        entry.uuid = found.uuid if found is not None else None
    if found is None and look.create_if_missing:
        look.own(name)
        _named(entry, look)
        return False
    if found is None and not _planned(look, world, name):
        world.missing.add((look.uri, look.kind, name))
        label = f"{look.kind} '{name}' on {look.session.uri}"
        remedy = "Check resource_id, or set create_if_missing to have it made."
        entry.problems.append(str(Missing("use", label, "it does not exist", remedy)))
    return True


def _planned(look: Look, world: World, name: str) -> bool:
    return (look.uri, name) in world.pools or (look.uri, name) in world.networks


def _note_older(entry: Entry, look: Look) -> None:
    found = NOUNS[look.kind].find_by_uuid(look.session, entry.uuid) if look.kind in NOUNS else None
    if found is not None:
        entry.notes.append("it exists already: an install takes it over where an earlier one of this instance made it")


def _pool(entry: Entry, look: Look, world: World) -> None:
    spec: PoolSpec = look.spec
    world.pools[look.uri, look.name] = spec.target_path if spec.kind.own_directory else ""
    secret = look.identity.uuid("pool secret") if spec.secret_value is not None and spec.kind.auth else ""
    entry.facts = {"type": spec.type, "path": spec.target_path, "autostart": spec.autostart}
    entry.xml = look.render("pool.xml.j2", "storagepool", PoolFacts(str(entry.uuid), secret))


def _network(entry: Entry, look: Look, world: World) -> None:
    spec = look.spec
    world.networks.add((look.uri, look.name))
    facts = networks.facts(look, str(entry.uuid))
    chosen = {"bridge": facts.bridge, "cidr": facts.cidr, "cidr6": facts.cidr6}
    entry.facts = {"mode": spec.forward_mode, **_given(chosen), "autostart": spec.autostart}
    entry.xml = look.render("network.xml.j2", "network", facts)
    world.subnets += [(look.uri, chosen[key]) for key in ("cidr", "cidr6") if getattr(spec, key) == "auto"]


def _given(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that there are; None would say that they are known later."""
    return {key: value for key, value in facts.items() if value not in (None, "", [])}


def _seen(look: Look, wanted: Image) -> tuple[str, int] | None:
    named = images.named(look, wanted)
    found = glance(named.source, named.checksum or "", named.format or "")
    return found or ((named.format, 0) if named.format else None)


def _volume(entry: Entry, look: Look, world: World) -> None:
    spec: VolumeSpec = look.spec
    path = world.path(look, look.wanted_pool, look.name)
    seen = _seen(look, spec.origin) if spec.origin else None
    own = "qcow2" if spec.is_overlay else seen[0] if seen else "" if spec.sources != [] else "raw"
    format_ = spec.format or ("raw" if spec.content is not None else own)
    wanted = spec.origin.size if spec.origin else None
    if seen and wanted:
        _attempt(entry, partial(check_growth, "make", f"the volume of {look.label}", seen[1], wanted, "the image's"))
    size = wanted or spec.capacity_bytes or (seen[1] if seen else None) or None
    world.volumes[look.uri, look.wanted_pool, look.name] = PlannedVolume(path, format_)
    of = {
        "source": public_url(spec.origin.source) if spec.origin else None,
        "source_volume": spec.source_volume.volume if spec.source_volume else None,
    }
    entry.facts = {
        "pool": look.wanted_pool, "size": size, "format": format_ or None, "path": path or None, **_given(of),
        "encrypted": spec.encryption is not None,
    }  # fmt: skip
    if spec.sources or spec.encryption:
        raise NotYet("write", "its XML", "what it is made of is looked at then")
    facts = VolumeFacts(size, spec.allocation_bytes, format_)
    entry.xml = look.render("volume.xml.j2", "storagevol", facts)


def _iso9660(entry: Entry, look: Look, world: World) -> None:
    spec = look.spec
    entry.facts = {"pool": spec.pool, "volume": spec.volume, "files": len(spec.files) + len(spec.files_raw)}
    world.directory(look, spec.pool)


def _domain(entry: Entry, look: Look, world: World) -> None:
    spec = look.spec
    _domain_facts(entry, look)
    if look.session.driver != "test":
        for card in spec.networks:
            if card.network:
                world.check_network(look, card.network)
    world.place_disks(look)
    plan = machine.foreseen(look, _image_format(entry, look), partial(world.directory, look))
    made = [{"pool": one.pool, "name": one.name, **_size(entry, one)} for one in plan.parts]
    choice = {"domain_type": plan.choice.domain_type, "accelerator": plan.choice.why}
    entry.facts |= _given({"networks": _cards(look), "volumes": made}) | choice
    if look.spec.cloud_init:
        _attempt(entry, lambda: _built(look, plan))
    if not entry.problems:
        entry.xml = machine.xml(look, plan)


def _built(look: Look, plan: machine.Plan) -> None:
    """Raise where the seed cannot be made; what is in it is nobody's to read."""
    parts.seed_image(look, plan)


def _size(entry: Entry, part: machine.Part) -> dict[str, Any]:
    return {"size": entry.facts.get("disk")} if part.kind == "root" else {}


def _domain_facts(entry: Entry, look: Look) -> None:
    spec = look.spec
    sizes = {"memory": spec.memory_kib * 1024, "max_memory": spec.max_memory_kib * 1024} if spec.has_memory else {}
    image = {"image": public_url(spec.image.source), "disk": spec.image.size} if spec.image else {}
    entry.facts = {**sizes, "vcpu": spec.vcpu, **image, "autostart": spec.autostart}
    entry.facts |= _given({"networks": _cards(look)})


def _cards(look: Look) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = []
    for card in look.spec.networks:
        to = {key: value for key in ("network", "bridge") if (value := getattr(card, key, None))}
        cards.append({**to, "mac": card.mac, "ip": card.ip or None})
    return cards


def _image_format(entry: Entry, look: Look) -> str:
    """Return what the image will turn out to be, "" without one."""
    wanted, found = look.spec.image, list[tuple[str, int] | None]()
    if wanted is None:
        return ""
    _attempt(entry, lambda: found.append(_seen(look, wanted)))
    seen = found[0] if found else None
    entry.facts["disk"] = wanted.size or (seen[1] if seen else None) or None
    if seen and wanted.size:
        _attempt(entry, partial(check_growth, "make", f"the disk of {look.label}", seen[1], wanted.size, "the image's"))
    if seen is None and wanted.mode == "clone" and look.session.driver != _CONTAINER:
        raise NotYet("write", "its XML", "the image is not here yet, and its format is that of the disk")
    return seen[0] if seen else "tar" if look.session.driver == _CONTAINER else "qcow2"


_DESCRIPTIONS: dict[str, Callable[[Entry, Look, World], None]] = {
    "domain": _domain, "network": _network, "pool": _pool, "volume": _volume, "iso9660": _iso9660,
}  # fmt: skip
_VALIDATIONS: dict[str, Callable[[Look], None]] = {
    "domain": validation.domain, "network": validation.network, "pool": validation.pool,
    "volume": validation.volume, "iso9660": validation.iso9660,
}  # fmt: skip
