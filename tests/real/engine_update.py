"""What a Manager's update of a deployment does with instances, by the engine's own functions: a workflow for blueprints
of tests, as the package of a Manager that has it runs nowhere else.

Source: cloudify_system_workflows.deployment_update.update_instances of 7.0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudify import decorators
from cloudify.exceptions import NonRecoverableError
from cloudify.plugins import lifecycle, workflows

Function = Callable[..., None]
workflow: Callable[[Function], Function] = decorators.workflow
operation: Callable[[Function], Function] = decorators.operation


@workflow
def update(ctx: Any, properties: dict[str, Any], **_: Any) -> None:
    """Give nodes other properties; update what drifts then, and reinstall what could not be looked at or updated."""
    for node, changed in properties.items():
        ctx.update_node(ctx.deployment.id, node, properties={**ctx.get_node(node).properties, **changed})
    ctx.refresh_node_instances()
    able = {instance.id for instance in ctx.node_instances if instance.node.has_operation(_CHECK)}
    graph = workflows._make_check_drift_graph(ctx, node_instance_ids=able, ignore_failure=True, name="look")
    graph.execute()

    found = {one: ctx.get_node_instance(one).system_properties["configuration_drift"] for one in able}
    lost = {one for one, drift in found.items() if not drift["ok"]}
    drifted = {ctx.get_node_instance(one) for one, drift in found.items() if drift["ok"] and drift["result"]}
    if drifted:
        others = set(ctx.node_instances) - drifted
        lifecycle.update_node_instances(_cleared(graph), drifted, related_nodes=others)
    lost |= {one.id for one in ctx.node_instances if one.system_properties.get("update_failed") == ctx.execution_id}
    ctx.logger.info(f"updated: {_nodes(drifted)}; to be installed anew: {sorted(lost)}")
    if lost:
        again = {instance for instance in ctx.node_instances if instance.id in lost}
        others = set(ctx.node_instances) - again
        lifecycle.reinstall_node_instances(_cleared(graph), again, ignore_failure=False, related_nodes=others)


_CHECK = "cloudify.interfaces.lifecycle.check_drift"


def _cleared(graph: Any) -> Any:
    for task in graph.tasks:
        graph.remove_task(task)
    return graph


def _nodes(instances: set[Any]) -> str:
    return ", ".join(sorted(instance.node_id for instance in instances))


@operation
def nothing(**_: Any) -> None:
    """Be there: the engine sends no operation that a blueprint does not have."""


@operation
def failing(**_: Any) -> None:
    """Fail, as a blueprint's own operation may."""
    raise NonRecoverableError("it fails, as it shall")
