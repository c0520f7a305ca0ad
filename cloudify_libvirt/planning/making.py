"""Makes the plan of a blueprint: the deployment is put together in memory, and each instance of it is looked at."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudify.workflows import local

from cloudify_libvirt import deployments
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.uri import shown as shown_uri
from cloudify_libvirt.planning import creation, differing, going, hiding, reading, unfinished
from cloudify_libvirt.planning.compare import Comparison, compare, fitted, merged_inputs
from cloudify_libvirt.planning.looking import Inputs, Look, View, kind_of, making
from cloudify_libvirt.planning.model import Action, Entry, Plan, ordered
from cloudify_libvirt.planning.replacing import asked, otherwise, replaced, without
from cloudify_libvirt.planning.world import World
from cloudify_libvirt.steps import status

# Of an instance that an uninstall has left, or no install has reached.
_ABSENT = frozenset({None, "uninitialized", "deleted"})
_UNKNOWN = "known after install"


@dataclass(frozen=True)
class Order:
    """What is asked for: a blueprint's file, inputs as on a command line, a deployment ("": as cfy would call it)."""

    blueprint: Path
    inputs: tuple[str, ...] = ()
    deployment: str = ""


@dataclass
class _Deployment:
    """A deployment as it would be, in memory: nodes, instances, and what is stored of it today.

    ``anew``: nodes whose instances cannot stay what they are, with the reason. ``otherwise``: those whose objects
    cannot follow. ``scaling``: a scale that did not end.
    """

    storage: Any
    nodes: dict[str, Any]
    instances: list[Any]
    difference: Comparison
    old_nodes: dict[str, Any]
    installed: bool
    new_ids: set[str] = field(default_factory=set)
    anew: dict[str, str] = field(default_factory=dict)
    otherwise: dict[str, str] = field(default_factory=dict)
    scaling: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def goes_on(self) -> str:
        """Say what becomes of instances that a workflow left on their way."""
        if any(one.get("state") == unfinished.STARTED for one in self.instances):
            return "an update installs it from there on"
        return f"cfy executions start install -b {self.storage.name} goes on"


def make(order: Order) -> Plan:
    """Return what an install, or an update of what is installed, would do. Nothing is written anywhere.

    Raises:
        InvalidSpec: the blueprint or its inputs are wrong.
        Missing: there is no such blueprint.
    """
    name = order.deployment or reading.default_name(order.blueprint)
    found = _assembled(order, name)
    gone = [_gone(found, one) for one in found.difference.removed]
    world, secrets, looks = World(), dict[str, str](), list[tuple[Entry, Look | None]]()
    for instance in found.instances:
        looks.append(_begun(found, instance))
    for entry, look in _in_order(looks):
        _describe(entry, look, found, world)
        going.settle(entry, gone)
    for entry, look in looks:
        secrets |= dict.fromkeys(_secrets(look), hiding.SECRET)
        _hide_ids(entry, found.new_ids)
    going.doubt(world, [entry for entry, _ in looks], gone)
    entries = [entry for entry, _ in looks] + gone
    for entry in entries:
        _clean(entry, secrets)
    return Plan(name, str(order.blueprint.absolute()), found.installed, ordered(entries), found.problems)


def _assembled(order: Order, name: str) -> _Deployment:
    """Return the deployment of the blueprint, with what is installed of it."""
    target = f"blueprint {order.blueprint}"
    plan, given = reading.parsed(order.blueprint), reading.given(order.inputs)
    stored = reading.stored(deployments.default_home(), name)
    if stored is not None:
        return _beside(stored, order, plan, given)
    new = reading.prepared(plan, given, target)
    instances = list(new["node_instances"])
    storage = _in_memory(order.blueprint, name, plan, new, instances)
    return _Deployment(
        storage, _nodes(new), instances, Comparison(), {}, installed=False, new_ids={one["id"] for one in instances}
    )


def _beside(stored: reading.Stored, order: Order, plan: Any, given: Mapping[str, Any]) -> _Deployment:
    """Return the deployment of the blueprint beside what is installed, as the workflow ``update`` compares them."""
    target = f"blueprint {order.blueprint}"
    inputs = merged_inputs(stored.definitions, stored.inputs, plan["inputs"], given)
    new = reading.prepared(plan, inputs, target)
    with reading.readable("compare", f"{target} with deployment '{stored.name}'"):
        anew = replaced(stored.plan, new)
        others = replaced(stored.plan, new, otherwise(stored.plan, new, stored.instances))
        leaving = [one for one in stored.instances if one["node_id"] in anew]
        difference = compare(stored.plan, without(stored.instances, leaving), new)
    difference.removed.extend(leaving)
    for instance, links in stored.links.items():
        difference.linked.setdefault(instance, []).extend(links)
    new = fitted(new, difference.counts)
    instances, known = [*difference.kept, *difference.added], {one["id"] for one in stored.instances}
    return _Deployment(
        _in_memory(order.blueprint, stored.name, plan, new, instances), _nodes(new), instances, difference,
        _nodes(stored.plan), installed=True, new_ids={one["id"] for one in instances} - known, anew=anew,
        otherwise={node: reason for node, reason in others.items() if node not in anew}, scaling=stored.scaling,
        problems=[str(unfinished.refusal(stored.name, stored.scaling))] if stored.scaling else [],
    )  # fmt: skip


def _nodes(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {str(node["id"]): node for node in plan["nodes"]}


def _in_memory(path: Path, name: str, blueprint: Any, plan: Mapping[str, Any], instances: Iterable[Any]) -> Any:
    """Return the engine's storage of a deployment, filled with copies.

    Source: cloudify.workflows.local, _Storage.create_blueprint and create_deployment
    """
    storage = local.InMemoryStorage()
    directory = str(path.absolute().parent)
    storage.store_blueprint(
        name,
        {"id": name, "plan": blueprint, "resources": directory, "blueprint_filename": path.name,
         "blueprint_path": str(path.absolute()), "provider_context": {}},
    )  # fmt: skip
    storage.store_deployment(
        name,
        {"id": name, "blueprint_id": name, "plan": plan, "inputs": dict(plan["inputs"]), "workflows": [],
         "nodes": {str(node["id"]): local.Node(copy.deepcopy(node)) for node in plan["nodes"]},
         "scaling_groups": plan.get("scaling_groups") or {}},
    )  # fmt: skip
    for one in instances:
        one.setdefault("node_id", one.get("name"))
        filled = {"version": 0, "runtime_properties": {}, "system_properties": {}, "relationships": [],
                  **{key: value for key, value in copy.deepcopy(dict(one)).items() if value is not None}}  # fmt: skip
        storage.store_instance(name, local.NodeInstance(filled))
    found = storage.load(name)
    local._Environment(found)
    return found


def _begun(found: _Deployment, instance: Mapping[str, Any]) -> tuple[Entry, Look | None]:
    """Return the entry of an instance, with how it is looked at; None where it is not ours."""
    node = found.nodes[instance["node_id"]]
    kind = kind_of(node)
    installed = instance["id"] not in found.new_ids
    half = unfinished.half_made(instance) if installed else ""
    stands = installed and not half and instance.get("state") not in _ABSENT
    entry = Entry(
        Action.KEEP if stands else Action.CREATE, str(node["id"]), str(node["type"]),
        ours=kind is not None, instance=str(instance["id"]), kind=kind or "",
    )  # fmt: skip
    if half:
        entry.notes.append(f"half made, or half removed (state {half}): {found.goes_on}")
    entry.notes += unfinished.of_scale(found.scaling, instance)
    if kind is None:
        return entry, None
    inputs = Inputs(found.storage, instance["id"])
    view = View(found.storage, node, instance)
    with suppress(CoreError):  # said when it is looked at
        entry.number = Look(view, kind, {}).identity.index + 1
    given = {} if installed and (instance.get("runtime_properties") or {}).get("resource_id") else inputs.of(node)
    entry.notes += [f"{_UNKNOWN}: input {path}" for path in inputs.unknown]
    for name, mapped in making(node):
        if "cloudify_libvirt." not in str(mapped["operation"]) and not installed:
            said = (mapped.get("inputs") or {}).get("script_path") or mapped["operation"]
            entry.notes.append(f"{name} runs {said}: what that sets is {_UNKNOWN}")
    return entry, Look(view, kind, given)


def _in_order(looks: Iterable[tuple[Entry, Look | None]]) -> Iterator[tuple[Entry, Look | None]]:
    """Yield what others stand on first."""
    kinds = ("pool", "network", "volume", "iso9660", "domain", "")
    yield from sorted(looks, key=lambda pair: (kinds.index(pair[0].kind), pair[0].node, pair[0].number))


def _describe(entry: Entry, look: Look | None, found: _Deployment, world: World) -> None:
    if look is None:
        _other(entry, found)
        return
    try:
        entry.host = shown_uri(look.uri)
        if status.made(look) and entry.action is not Action.CREATE:
            old = (found.old_nodes[entry.node].get("properties") or {}).get("params") or {}
            differing.describe(entry, look, world, found.difference.changes.get(entry.node, []), old)
            _links(entry, found)
        else:
            creation.describe(entry, look, world)
    except CoreError as error:
        entry.problems.append(str(error))
    entry.notes += look.ctx.logger.warnings
    _made_anew(entry, found)


def _made_anew(entry: Entry, found: _Deployment) -> None:
    """Say that another takes the place of an installed instance, and what that takes."""
    reason = found.otherwise.get(entry.node)
    if reason and entry.action is not Action.CREATE:
        entry.action = Action.REPLACE
        leave = f"with {asked([entry.node])}; without, nothing at all is updated"
        entry.notes.append(f"removed and made anew, {leave}: {reason}")


def _other(entry: Entry, found: _Deployment) -> None:
    """Say what the blueprint changes of a node that is not ours."""
    if entry.action is Action.CREATE:
        return
    _made_anew(entry, found)
    entry.changes = [
        {"field": one.path, "old": hiding.shown(one.path, one.old), "new": hiding.shown(one.path, one.new),
         "how": "", "note": "a node of another plugin", "where": ["blueprint"]}
        for one in found.difference.changes.get(entry.node, [])
    ]  # fmt: skip
    _links(entry, found)


def _links(entry: Entry, found: _Deployment) -> None:
    """Say which relationships and operations of an installed instance are other ones."""
    difference = found.difference
    linked, unlinked = (
        [f"{link['type']} {link['target_id']}" for link in links.get(entry.instance, [])]
        for links in (difference.linked, difference.unlinked)
    )
    mapped = difference.mapped.get(entry.node, [])
    pairs = [
        *(("relationships", None, text) for text in linked),
        *(("relationships", text, None) for text in unlinked),
        *((f"interfaces.{name}", "as installed", "as in the blueprint") for name in mapped),
    ]
    entry.changes += [
        {"field": name, "old": old, "new": new, "how": "live" if entry.ours else "", "where": ["blueprint"],
         "note": "counts from the next run on" if name != "relationships" else ""}
        for name, old, new in pairs
    ]  # fmt: skip
    if entry.action is Action.KEEP:
        entry.action = differing.action_of(entry.changes)


def _gone(found: _Deployment, instance: Mapping[str, Any]) -> Entry:
    """Return the entry of an instance that the blueprint has no more."""
    node = found.old_nodes.get(instance["node_id"], {})
    kind, runtime = kind_of(node), instance.get("runtime_properties") or {}
    entry = Entry(
        Action.DELETE, str(instance["node_id"]), str(node.get("type") or ""), ours=kind is not None,
        instance=str(instance["id"]), kind=kind or "", number=int(runtime.get("index") or 0) + 1,
        host=shown_uri(str(runtime.get("libvirt_auth") or "")) if kind else "",
        name=runtime.get("resource_id"), uuid=runtime.get("uuid"),
    )  # fmt: skip
    if entry.node in found.anew:
        entry.notes.append(f"made anew, with {asked([entry.node])}: {found.anew[entry.node]}")
    entry.notes += unfinished.of_scale(found.scaling, instance)
    if runtime.get("use_external_resource"):
        entry.notes.append("it is used, not ours: it stays")
    made = [f"{one['name']} of pool {one['pool']}" for one in runtime.get("made") or []] if kind == "domain" else []
    entry.facts = {"volumes": made} if made else {}
    return entry


def _secrets(look: Look | None) -> Iterator[str]:
    if look is not None:
        yield from hiding.secrets(dict(look.properties))
        yield from hiding.secrets(dict(look.inputs))


def _hide_ids(entry: Entry, new_ids: set[str]) -> None:
    """Take out the ids of instances that do not exist: the engine gives them others at the install."""
    if entry.instance not in new_ids:
        return
    own, entry.instance = entry.instance, ""
    if entry.name == own:
        entry.name = None
    texts = {own: "(instance id)"}
    for name in ("name", "facts", "notes", "problems", "xml"):
        setattr(entry, name, hiding.without(getattr(entry, name), texts))


def _clean(entry: Entry, secrets: Mapping[str, str]) -> None:
    """Let nothing through that nobody shall read."""
    for name in ("facts", "changes", "notes", "problems", "xml"):
        setattr(entry, name, hiding.without(getattr(entry, name), secrets))
    if entry.xml:
        entry.xml = hiding.public_xml(entry.xml)
