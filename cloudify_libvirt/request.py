"""One operation's request: inputs, properties and runtime properties, merged by the contract's rules."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from cloudify.exceptions import HttpException

from cloudify_libvirt import __version__
from cloudify_libvirt.core.document.own_template import own_variables
from cloudify_libvirt.core.document.render import TemplateSource, render, render_device
from cloudify_libvirt.core.errors import InvalidSpec, Missing
from cloudify_libvirt.core.identity import Identity, assign_indexes
from cloudify_libvirt.core.image.urls import recordable
from cloudify_libvirt.core.media import expand
from cloudify_libvirt.core.ownership.mark import orchestrator_id
from cloudify_libvirt.core.session import Session, connect
from cloudify_libvirt.core.spec import Kind, only_copied, parse_spec, refuse_functions
from cloudify_libvirt.core.spec.variables import Facts, OwnershipMark, template_variables
from cloudify_libvirt.core.units import parse_bool
from cloudify_libvirt.core.uri import check_uri
from cloudify_libvirt.ctxview import view
from cloudify_libvirt.engine import operation_inputs, resource_roots
from cloudify_libvirt.record import Record

DEFAULT_URI = "qemu:///system"

_INPUTS = frozenset(
    {
        "allow_replace",
        "allow_restart",
        "create_if_missing",
        "libvirt_auth",
        "params",
        "resource_id",
        "template_content",
        "template_resource",
        "use_external_resource",
    }
)
# Inputs of releases before 0.7.0, as in domain_file and network_template.
_OLD_INPUTS = {
    f"{kind}_{old}": new
    for kind in ("domain", "network", "pool", "volume", "backup")
    for old, new in (("file", "template_resource"), ("template", "template_content"))
}
# By which an operation gets a template of the user's.
TEMPLATE_INPUTS = frozenset({"template_resource", "template_content", *_OLD_INPUTS})
_RESOURCE_REMEDY = "Give the path of a file in the blueprint's directory, relative to the blueprint."

# Texts in these parameters are Jinja templates over the instance's identity.
EXPANDED = ("name", "networks", "cloud_init")

# Seeds hold passwords. What comes from properties can be read there again; what came as an input must be kept
# for the next operation, but for an ISO image's files, which one operation uses.
_SEEDS = frozenset({"cloud_init", "graphics"})
_NEVER_RECORDED = {
    "iso9660": frozenset({"files"}),
    "volume": frozenset({"content", "encryption"}),
    "pool": frozenset({"auth"}),
}


def unrecorded(kind: str) -> frozenset[str]:
    """Return the parameters of which no copy is recorded."""
    return _SEEDS | _NEVER_RECORDED.get(kind, frozenset())


# Workflows that replace what is found bad, without asking.
REPLACING = frozenset({"heal", "update", "csys_new_deployment_update"})

_indexes: dict[tuple[str, str], dict[str, int]] = {}

_MOST_READ = 1000
_read: dict[tuple[str, str, str, str], Any] = {}


def forget_plan() -> None:
    """Read properties and numbers again: the running workflow has changed nodes and instances."""
    _read.clear()
    _indexes.clear()


class Request:
    """What one operation call asks for."""

    def __init__(self, ctx: Any, kind: Kind, inputs: Mapping[str, Any], *, records: bool = True) -> None:
        """Read nothing yet; every part is read when it is first needed."""
        self.ctx = ctx
        self.kind = kind
        self.inputs = {_OLD_INPUTS[key]: value for key, value in inputs.items() if key in _OLD_INPUTS} | dict(inputs)
        self.record = Record(ctx, writable=records)

    @property
    def label(self) -> str:
        """Return how messages call the node instance."""
        return f"node {self.ctx.node.name}"

    @cached_property
    def properties(self) -> Any:
        """Return the node's properties."""
        return self._once("properties", lambda: self.ctx.node.properties)

    @cached_property
    def operation_inputs(self) -> list[dict[str, Any]] | None:
        """Return the inputs that the blueprint gives to the node's operations; None where that is not seen."""
        found: list[dict[str, Any]] | None = self._once("inputs", lambda: operation_inputs(self.ctx))
        return found

    def _once(self, what: str, read: Callable[[], Any]) -> Any:
        """Return what is read of the node once per execution and process.

        Each first access to ``ctx.node`` in an operation reads the whole deployment in local mode.
        """
        key = (self.ctx.deployment.id, str(self.ctx.execution_id or ""), self.ctx.node.id, what)
        with suppress(KeyError):
            return _read[key]
        found = read()
        if len(_read) >= _MOST_READ:
            _read.clear()
        if key[1]:
            _read[key] = found
        return found

    def _setting(self, key: str, default: Any) -> Any:
        """Return input, else runtime property, else node property, else the default; "" counts as unset."""
        for value in (self.inputs.get(key), self.record.get(key)):
            if value not in (None, ""):
                return value
        value = self.properties.get(key)
        if value in (None, ""):
            return default
        refuse_functions(value, key, self.ctx.node.name)
        return value

    @property
    def backup_dir(self) -> str:
        """Return the directory of backups that are kept in files."""
        return str(self._setting("backup_dir", "./"))

    @property
    def visible(self) -> Any:
        """Return what a template may see of the engine's context."""
        return view(self.ctx)

    @cached_property
    def uri(self) -> str:
        """Return the hypervisor's URI."""
        value = self._setting("libvirt_auth", DEFAULT_URI)
        if isinstance(value, Mapping):
            reason, remedy = f"it is a {type(value).__name__}, not a text", f"Give a URI such as {DEFAULT_URI}."
            raise InvalidSpec("read", f"libvirt_auth of {self.label}", reason, remedy)
        uri = check_uri(value)
        self.record.assign(libvirt_auth=uri)
        return uri

    @cached_property
    def session(self) -> Session:
        """Return the connection."""
        return connect(self.uri)

    @cached_property
    def external(self) -> bool:
        """Tell whether the object is used, not made."""
        value = parse_bool(self._setting("use_external_resource", False), "use_external_resource")
        self.record.assign(use_external_resource=value)
        return value

    @property
    def create_if_missing(self) -> bool:
        """Tell whether an external object that does not exist is made."""
        return parse_bool(self._setting("create_if_missing", False), "create_if_missing")

    @property
    def resource_id(self) -> str:
        """Return the existing object's name as the user gave it, or what we recorded."""
        return str(self._setting("resource_id", "") or "")

    @cached_property
    def identity(self) -> Identity:
        """Return who this instance is; its number is recorded at the first call."""
        index = self.record.get("index")
        if index is None:
            index = _index_of(self.ctx)
            self.record.assign(index=index)
        tenant = getattr(self.ctx, "tenant_name", None)
        deployment = self.ctx.deployment.id
        if isinstance(tenant, str) and tenant not in ("", "default_tenant"):
            deployment = f"{tenant}/{deployment}"
        return Identity(deployment, self.ctx.node.id, int(index), self.ctx.instance.id)

    @cached_property
    def params(self) -> dict[str, Any]:
        """Return the merged params: properties, then runtime, then inputs; recorded with name and UUID."""
        properties = _copied(dict(self.properties.get("params") or {}))
        seen = self.record.get("params_from_properties") or {}
        runtime = self.record.get("params") or {}
        # A runtime value that is only the copy of an older property gives way to the property of today.
        changed = {k: v for k, v in runtime.items() if not only_copied(k, v, seen, properties)}
        given = {**properties, **changed, **self._input_params}
        merged = {**given, **self._expanded(given)}
        if not merged.get("name"):
            merged["name"] = self.ctx.instance.id
        if not merged.get("instance_uuid"):
            merged["instance_uuid"] = self.identity.uuid(self.kind)
        self._record_params(merged, given, properties)
        return merged

    def _record_params(self, merged: dict[str, Any], given: dict[str, Any], properties: dict[str, Any]) -> None:
        left_out = unrecorded(self.kind)
        kept = {key: value for key, value in merged.items() if key not in left_out}
        # As it was given: an expanded text must not be expanded again.
        kept |= {key: given[key] for key in _SEEDS & given.keys() if given[key] != properties.get(key)}
        seen = {key: properties[key] for key in properties.keys() - left_out}
        self.record.assign(params=recordable(kept, seen), params_from_properties=recordable(seen, seen))

    def own(self, name: str) -> None:
        """Take the object of that name for ours to make: there is no external one."""
        self.params["name"] = name
        for read in ("draft", "spec"):
            vars(self).pop(read, None)
        self.record.assign(use_external_resource=False, params={**(self.record.get("params") or {}), "name": name})

    @property
    def _input_params(self) -> dict[str, Any]:
        value = self.inputs.get("params") or {}
        if not isinstance(value, Mapping):
            reason, remedy = f"{type(value).__name__} is not a map", "Give params as a map of parameters."
            raise InvalidSpec("read", f"input params of {self.label}", reason, remedy)
        # Releases before 0.7.0 called the name so.
        return {("name" if key == "resource_id" else key): entry for key, entry in value.items()}

    def _expanded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        identity = self.identity
        variables = {
            "deployment": identity.deployment,
            "node": identity.node,
            "instance": identity.instance,
            "index": identity.index,
            "number": identity.index + 1,
        }
        name = expand(params.get("name") or "", variables, field="params.name") or identity.instance
        wanted = {key: params[key] for key in EXPANDED[1:] if params.get(key)}
        return {"name": name, **expand(wanted, {**variables, "name": name, "hostname": name}, field="params")}

    @cached_property
    def spec(self) -> Any:
        """Return the validated params of the object that is about to be made."""
        return parse_spec(self.kind, self.params, node=self.ctx.node.name, extra=self.has_own_template)

    @cached_property
    def draft(self) -> Any:
        """Return the params, validated as far as they go: a later operation may bring more, or a template."""
        if "spec" in vars(self):
            return self.spec
        return parse_spec(self.kind, self.params, node=self.ctx.node.name, extra=True, complete=False)

    @property
    def name(self) -> str:
        """Return the object's name."""
        return str(self.params["name"])

    @cached_property
    def has_own_template(self) -> bool:
        """Tell whether the user gave a template of his own."""
        return any(self._setting(key, "") for key in ("template_resource", "template_content"))

    @property
    def wanted_pool(self) -> str:
        """Return the name of the pool that the object lives in."""
        pool = self.params.get("pool")
        if not pool:
            raise InvalidSpec("find the pool of", self.label, "params.pool is not set", "Name a pool.")
        return str(pool)

    @property
    def mark(self) -> OwnershipMark:
        """Return the mark that what we make carries."""
        identity = self.identity
        names = (identity.deployment, identity.node, identity.instance, __version__)
        return OwnershipMark(*names, orchestrator_id(), identity.index)

    def render(self, packaged: str, schema: str, facts: Facts) -> str:
        """Render the user's template, or the packaged one, and check it against libvirt's schema."""
        source = self.template(packaged)
        return render(source, self._variables(source, self.spec, facts), schema=schema, node=self.ctx.node.name)

    def render_device(self, facts: Facts) -> str:
        """Render the user's template of one device of an existing domain, and check it."""
        source = self.template("")
        return render_device(source, self._variables(source, self.draft, facts), node=self.ctx.node.name)

    def _variables(self, source: TemplateSource, spec: Any, facts: Facts) -> dict[str, Any]:
        if source.text is None:
            return template_variables(spec, facts)
        return own_variables(source, spec, facts, self.visible, self.record.warn)

    def template(self, packaged: str) -> TemplateSource:
        """Return the user's template, or the packaged one of that name."""
        resource = self._setting("template_resource", "")
        if resource:
            return TemplateSource(text=self._text(resource), name=str(resource), origin=str(resource))
        content = self._setting("template_content", "")
        if content:
            return TemplateSource(text=str(content), name="template_content", origin="template_content")
        return TemplateSource(name=packaged)

    def _text(self, resource: str) -> str:
        try:
            return self.resource(resource).decode("utf-8")
        except UnicodeDecodeError as error:
            target = f"template {resource} of {self.label}"
            raise InvalidSpec("read", target, f"it is not UTF-8 text ({error})", "Save it as UTF-8.") from error

    def resource(self, name: str) -> bytes:
        """Return the content of a file of the blueprint.

        Raises:
            Missing: there is no such file.
        """
        target = f"resource {name} of {self.label}"
        try:
            data = self.ctx.get_resource(inside_blueprint(name, self.label, resource_roots(self.ctx)))
        except (OSError, HttpException) as error:
            raise Missing("read", target, "the blueprint has no such file", _RESOURCE_REMEDY) from error
        if data is None:
            raise Missing("read", target, "the blueprint has no such file", _RESOURCE_REMEDY)
        return data if isinstance(data, bytes) else str(data).encode("utf-8")

    def mention_misspelt(self) -> None:
        """Warn of inputs that are ignored but look like one that is not; others may be for the user's own use."""
        for key in self.inputs.keys() - _INPUTS:
            near = difflib.get_close_matches(key, _INPUTS, n=1, cutoff=0.8)
            if near:
                self.record.warn(f"{self.label}: input {key!r} is ignored; did you mean {near[0]!r}?")


def _copied(value: Any) -> Any:
    """Return a copy of what a blueprint can hold; several times as fast as copy.deepcopy."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def inside_blueprint(resource: str, label: str, roots: Sequence[Path] = ()) -> str:
    """Return a resource path that stays inside the blueprint, also by its symbolic links below ``roots``."""
    path = str(resource)
    inside = not path.startswith("/") and ".." not in path.split("/") and "\0" not in path
    if not inside or not all((root / path).resolve().is_relative_to(root.resolve()) for root in roots):
        raise InvalidSpec(
            "read",
            f"resource of {label}",
            f"{path!r} leaves the blueprint's directory",
            "Keep files inside the blueprint and give their relative path.",
        )
    return path


def _index_of(ctx: Any) -> int:
    """Return the instance's number among the instances of its node, from 0."""
    given = getattr(ctx.instance, "index", None)
    if isinstance(given, int):
        # A Manager counts from 1.
        return max(given - 1, 0)
    storage = getattr(getattr(ctx, "_endpoint", None), "storage", None)
    if storage is None:
        return 0
    key = (f"{ctx.deployment.id}/{getattr(ctx, 'execution_id', '')}", ctx.node.id)
    known = _indexes.get(key, {})
    if ctx.instance.id not in known:
        instances = storage.get_node_instances(ctx.node.id)
        recorded = {i.id: i.runtime_properties["index"] for i in instances if "index" in (i.runtime_properties or {})}
        known = _indexes[key] = assign_indexes({**recorded, **known}, [i.id for i in instances])
    return known[ctx.instance.id]
