"""The workflow ``update`` of local mode: a changed blueprint or inputs, carried out on what is installed.

Everything is worked out anew from what is stored and from the blueprint, so that a killed update goes on when it is
run again: what has to go goes under the old plan, the new plan is stored in one step, and under it everything is
brought in line, with what is not there yet installed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cloudify import decorators
from cloudify.exceptions import NonRecoverableError
from cloudify.workflows import local

from cloudify_libvirt.core.errors import Conflict, CoreError, InvalidSpec
from cloudify_libvirt.local_state import LocalState, link_key
from cloudify_libvirt.planning import reading
from cloudify_libvirt.planning.compare import Comparison, compare, fitted, merged_inputs
from cloudify_libvirt.planning.replacing import asked, otherwise, replaced, without
from cloudify_libvirt.planning.unfinished import PENDING_LINKS
from cloudify_libvirt.request import forget_plan
from cloudify_libvirt.workflows import carrying
from cloudify_libvirt.workflows.carrying import Report
from cloudify_libvirt.workflows.leave import Leave
from cloudify_libvirt.workflows.scale import check_finished

Workflow = Callable[..., None]
Links = Mapping[str, Iterable[Mapping[str, Any]]]
workflow: Callable[[Workflow], Workflow] = decorators.workflow

# Modules that only an agent has (cloudify_cli.constants.IGNORED_LOCAL_WORKFLOW_MODULES).
_NOT_HERE = (
    "cloudify_agent.operations", "cloudify_agent.installer.operations", "worker_installer.tasks",
    "plugin_installer.tasks", "windows_agent_installer.tasks", "windows_plugin_installer.tasks",
)  # fmt: skip


@workflow
def update(ctx: Any, **kwargs: Any) -> None:
    """Bring an installed deployment to a changed blueprint or inputs: only what differs is touched."""
    state = LocalState(ctx)
    try:
        check_finished(state)
        proposed = _Proposal(state, str(kwargs.get("blueprint") or ""), _inputs(kwargs.get("inputs")))
        leave = Leave.of(kwargs, proposed.nodes)
        proposed.check(leave)
    except CoreError as error:
        raise NonRecoverableError(str(error)) from error
    proposed.take(ctx)
    report = Report()
    if any(instance.state == carrying.STARTED for instance in ctx.node_instances):
        carrying.align(ctx, proposed.comparison.changes.keys(), leave, report)
        _establish(ctx, state)
    else:
        ctx.logger.info("nothing is installed: the new plan is stored for the next install")
    _tell(ctx, report, proposed.comparison.removed)


class _Proposal:
    """The new plan beside what is installed."""

    def __init__(self, state: LocalState, blueprint: str, inputs: Mapping[str, Any]) -> None:
        """Read and compare; nothing is written."""
        self._state = state
        old = state.deployment
        self._old_plan = old["plan"]
        path = self._path(blueprint)
        parsed = reading.parsed(path)
        definitions = (state.blueprint["plan"] or {}).get("inputs") or {}
        merged = merged_inputs(definitions, old.get("inputs") or {}, parsed["inputs"], inputs)
        self._storage = local.InMemoryStorage()
        self._storage.store_blueprint(state.name, _as_stored(state, path, parsed))
        with reading.unquoted(merged, "update to", f"blueprint {path}"):
            self._storage.create_deployment(state.name, state.name, merged, _NOT_HERE)
        new = self._storage.get_deployment(state.name)["plan"]
        stored = state.instances()
        self.nodes = {str(node["id"]) for plan in (self._old_plan, new) for node in plan["nodes"]}
        self.replaced = replaced(self._old_plan, new, otherwise(self._old_plan, new, stored))
        leaving = [one for one in stored if one["node_id"] in self.replaced]
        self.comparison: Comparison = compare(self._old_plan, without(stored, leaving), new)
        self.comparison.removed.extend(leaving)
        self._plan = fitted(new, self.comparison.counts)

    def _path(self, blueprint: str) -> Path:
        path = Path(blueprint or self._state.blueprint["blueprint_path"]).absolute()
        if not blueprint and not path.is_file():
            reason = f"the blueprint that it was installed from, {path}, is gone"
            raise InvalidSpec("update", f"deployment {self._state.name}", reason, "Name one: -p blueprint=PATH")
        return path

    def check(self, leave: Leave) -> None:
        """Refuse what would destroy what stands."""
        refused = {node: reason for node, reason in self.replaced.items() if not leave.replaces(node)}
        if refused:
            reasons = "; ".join(f"node {node}: {reason}" for node, reason in refused.items())
            needed = asked({*refused, *leave.nodes})
            remedy = f"That takes removing it, with what it holds, and making it anew: {needed}"
            raise Conflict("update", f"deployment {self._state.name}", reasons, remedy)

    def take(self, ctx: Any) -> None:
        """Remove what has to go, then store the new plan and what is new."""
        found = self.comparison
        gone = {one["id"] for one in found.removed}
        carrying.unlink(ctx, _among_kept(found.unlinked, gone))
        carrying.remove(ctx, gone)
        self._state.unlink(found.unlinked)
        self._state.remove(gone)
        links = _among_kept(found.linked, {one["id"] for one in found.added})
        left = _among_kept(_still(self._state.deployment.get(PENDING_LINKS) or {}, gone, found.unlinked), gone)
        self._state.put(**self._attributes(), **{PENDING_LINKS: _both(left, links) or None})
        self._state.add(found.added)
        self._state.link(found.linked)
        self._state.take_blueprint(self._storage.get_blueprint(self._state.name))
        forget_plan()
        ctx.refresh_node_instances()

    def _attributes(self) -> dict[str, Any]:
        """Return what the deployment's file says of the new plan."""
        new = self._storage.get_deployment(self._state.name)
        nodes = {str(node["id"]): node for node in self._plan["nodes"]}
        stored = {
            name: {**node, "capabilities": nodes[name]["capabilities"], "number_of_instances": _number(nodes[name])}
            for name, node in new["nodes"].items()
        }
        groups = self._plan.get("scaling_groups") or {}
        changed = {key: new[key] for key in ("inputs", "workflows")}
        return {**changed, "plan": self._plan, "nodes": stored, "scaling_groups": groups}


def _number(node: Mapping[str, Any]) -> int:
    return int(node["capabilities"]["scalable"]["properties"]["current_instances"])


def _as_stored(state: LocalState, path: Path, plan: Any) -> dict[str, Any]:
    """Return a blueprint as the engine stores one."""
    return {
        **state.blueprint, "id": state.name, "plan": plan, "resources": str(path.parent),
        "blueprint_filename": path.name, "blueprint_path": str(path),
    }  # fmt: skip


def _inputs(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    return reading.given([str(value)]) if value else {}


def _among_kept(links: Links, others: Iterable[str]) -> dict[str, list[Any]]:
    """Return the links whose target is none of the others: these are linked as they come, and unlinked as they go."""
    left_out = set(others)
    found = {key: [link for link in some if link["target_id"] not in left_out] for key, some in links.items()}
    return {key: some for key, some in found.items() if some}


def _still(links: Links, gone: Collection[str], unlinked: Links) -> dict[str, list[Any]]:
    """Return the links of those that stay, without those that they lose."""
    lost = {id_: [link_key(link) for link in some] for id_, some in unlinked.items()}
    return {
        id_: [link for link in some if link_key(link) not in lost.get(id_, [])]
        for id_, some in links.items()
        if id_ not in gone
    }


def _both(some: Links, others: Links) -> dict[str, list[Any]]:
    """Return the links of both, each once."""
    found: dict[str, list[Any]] = {}
    for links in (some, others):
        for id_, more in links.items():
            known = found.setdefault(id_, [])
            had = [link_key(link) for link in known]
            known += [link for link in more if link_key(link) not in had]
    return found


def _establish(ctx: Any, state: LocalState) -> None:
    """Establish the new relationships, also those that a killed update left."""
    pending = state.deployment.get(PENDING_LINKS)
    if pending:
        carrying.establish(ctx, pending)
        state.put(**{PENDING_LINKS: None})


def _tell(ctx: Any, report: Report, removed: Iterable[Mapping[str, Any]]) -> None:
    """Say what was done; fail when something could not be."""
    for id_, waiting in sorted(report.waiting.items()):
        ctx.logger.warning(f"{id_}: not in force yet: {waiting}; at its next start, or now with -p allow_restart=true")
    for id_, stays in sorted(report.left.items()):
        ctx.logger.info(f"{id_}: left as somebody made it on the host: {stays}")
    counts = {"updated": report.updated, "added": report.added, "removed": [str(one["id"]) for one in removed]}
    said = "; ".join(f"{what}: {', '.join(sorted(ids)) or 'none'}" for what, ids in counts.items())
    ctx.logger.info(f"{said}; unchanged: {len(report.unchanged)}")
    if report.failed:
        reasons = "; ".join(f"{id_}: {reason}" for id_, reason in sorted(report.failed.items()))
        raise NonRecoverableError(f"not all could be updated: {reasons}")
