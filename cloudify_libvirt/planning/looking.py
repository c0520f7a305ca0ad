"""A request that only looks: the engine's own context over a copy of the deployment in memory, and no record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cloudify.context import CloudifyContext
from dsl_parser import functions
from dsl_parser.utils import get_function

from cloudify_libvirt import __version__
from cloudify_libvirt.core.ownership.mark import known_orchestrator
from cloudify_libvirt.core.spec import Kind
from cloudify_libvirt.core.spec.variables import OwnershipMark
from cloudify_libvirt.planning.reading import ENGINE_ERRORS
from cloudify_libvirt.request import Request

KINDS: tuple[Kind, ...] = ("domain", "network", "pool", "volume", "iso9660")
_LIFECYCLE = "cloudify.interfaces.lifecycle"
# Operations whose inputs decide what is made; those of domains are two.
_MAKING = ("precreate", "create", "configure")


class Notes:
    """Stands where an operation logs; warnings are kept."""

    def __init__(self) -> None:
        """Begin empty."""
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

    def info(self, _text: str) -> None:
        """Drop what an operation would tell of its progress."""


class View:
    """The engine's context of one instance, with notes in place of the engine's log."""

    def __init__(self, storage: Any, node: Mapping[str, Any], instance: Mapping[str, Any]) -> None:
        """Stand on a deployment in memory."""
        self.logger = Notes()
        self._context = CloudifyContext(
            {
                "local": True, "storage": storage, "type": "operation", "workflow_id": "plan", "execution_id": "plan",
                "deployment_id": storage.name, "blueprint_id": storage.blueprint_name,
                "node_id": instance["id"], "node_name": node["id"],
            }
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class Look(Request):
    """What one instance asks for, as its operations would read it."""

    def __init__(self, ctx: Any, kind: Kind, inputs: Mapping[str, Any], *, records: bool = False) -> None:  # noqa: ARG002
        """Never record, whatever is asked for."""
        super().__init__(ctx, kind, inputs, records=False)

    def rendered(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return params with the texts that this instance has where they are templates."""
        return {**params, **self._expanded(params)}

    @property
    def mark(self) -> OwnershipMark:
        """Return the mark; an orchestrator's id that does not exist yet is not made for a look."""
        who = self.identity
        return OwnershipMark(who.deployment, who.node, who.instance, __version__, known_orchestrator(), who.index)


def kind_of(node: Mapping[str, Any]) -> Kind | None:
    """Return what a node makes with our operations, or None where it is not ours."""
    mapped = [str(one.get("operation") or "") for one in (node.get("operations") or {}).values()]
    return next((kind for kind in KINDS if any(f"cloudify_libvirt.{kind}_tasks." in one for one in mapped)), None)


def making(node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and mapping of the operations that decide what is made."""
    operations = node.get("operations") or {}
    for name in _MAKING:
        found = operations.get(f"{_LIFECYCLE}.{name}")
        if found and found.get("operation"):
            yield name, found


class Inputs:
    """The inputs of an instance's operations, with what can be known of the engine's functions in them."""

    def __init__(self, storage: Any, instance: str) -> None:
        """Evaluate for one instance."""
        self._storage, self._instance = storage, instance
        self.unknown: list[str] = []

    def of(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of our own operations, the later ones over the earlier; ``params`` are merged."""
        merged: dict[str, Any] = {}
        for _name, mapped in making(node):
            if "cloudify_libvirt." not in str(mapped["operation"]):
                continue
            given = self._known(dict(mapped.get("inputs") or {}), "")
            params = {**(merged.get("params") or {}), **(given.get("params") or {})}
            merged = {**merged, **given, "params": params}
        return merged

    def _known(self, value: Any, path: str) -> Any:
        """Return a value without what is not known yet; a list keeps its places."""
        if get_function(value):
            found = self._evaluated(value)
            if found is None:
                self.unknown.append(path)
            return found
        if isinstance(value, Mapping):
            pairs = {key: self._known(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
            return {key: item for key, item in pairs.items() if item is not None or value[key] is None}
        if isinstance(value, list):
            return [self._known(item, f"{path}[{at}]") for at, item in enumerate(value)]
        return value

    def _evaluated(self, value: Any) -> Any:
        """Return a function's value; None where it, or what it is made of, does not exist yet."""
        if any(self._evaluated(inner) is None for inner in _inner(value)):
            return None
        try:
            payload = functions.evaluate_functions({"value": value}, {"self": self._instance}, self._storage)
        except ENGINE_ERRORS:
            return None
        return payload["value"]


def _inner(value: Any) -> Iterator[Any]:
    """Yield the functions among the arguments of one."""
    arguments = next(iter(value.values()))
    for one in arguments if isinstance(arguments, list) else [arguments]:
        if get_function(one):
            yield one
