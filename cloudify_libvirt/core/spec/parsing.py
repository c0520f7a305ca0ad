"""From the mapping that a blueprint gives to a frozen spec, with errors that name node, path and remedy."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.spec.base import Rules, Spec
from cloudify_libvirt.core.spec.domain import NEWER, DomainSpec
from cloudify_libvirt.core.spec.iso9660 import IsoSpec
from cloudify_libvirt.core.spec.network import NetworkSpec
from cloudify_libvirt.core.spec.pool import PoolSpec
from cloudify_libvirt.core.spec.volume import VolumeSpec

Kind = Literal["domain", "network", "pool", "volume", "iso9660"]

MODELS: dict[Kind, type[Spec]] = {
    "domain": DomainSpec,
    "network": NetworkSpec,
    "pool": PoolSpec,
    "volume": VolumeSpec,
    "iso9660": IsoSpec,
}

# Source: dsl_parser/functions.py, TEMPLATE_FUNCTIONS
_INTRINSIC = {
    "concat", "get_attribute", "get_attributes_dict", "get_attributes_list", "get_capability", "get_consumers",
    "get_environment_capability", "get_group_capability", "get_input", "get_label", "get_property", "get_secret",
    "get_sys", "merge", "string_find", "string_lower", "string_replace", "string_split", "string_upper",
}  # fmt: skip
# What holds nothing.
_PLAIN = frozenset({str, int, float, bool, type(None)})
_SECRET = {"cloud_init", "files", "content", "encryption", "auth", "password"}
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
# What no encoding can carry, nor the messages of pydantic.
_SURROGATE = re.compile("[\ud800-\udfff]")
_building = threading.Lock()
_MOST_SHOWN = 60
_MOST_ERRORS = 5


def parse_spec(kind: Kind, params: Mapping[str, Any], *, node: str, extra: bool, complete: bool = True) -> Any:
    """Return the spec of ``params``: a frozen ``MODELS[kind]``.

    With ``extra`` (a user's template is in use) unknown keys are kept in ``spec.extra``, and required values may
    be absent. Without ``complete`` (an object that exists already) required values may be absent too.

    Raises:
        InvalidSpec: an unknown key, a wrong or missing value, a function that nobody evaluated.
    """
    refuse_functions(params, "params", node)
    try:
        return _validated(kind, params, {"extra": extra, "complete": complete})
    except ValidationError as error:
        raise _translate(error, params, node) from None


def _model(kind: Kind) -> type[Spec]:
    model = MODELS[kind]
    if not model.__pydantic_complete__:
        # Built at its first use; of several threads not every release of pydantic lets but one do that.
        with _building:
            model.model_rebuild()
    return model


def _validated(kind: Kind, params: Mapping[str, Any], rules: Rules) -> Spec:
    try:
        return _model(kind).model_validate(params, context=rules)
    except ValidationError as error:
        others = {str(details["loc"][0]) for details in error.errors() if details["loc"]} & NEWER
        if kind != "domain" or not rules["extra"] or not others:
            raise
    # Variables of the user's template, which happen to have names of ours.
    known = {name: value for name, value in params.items() if name not in others}
    spec = _model(kind).model_validate(known, context=rules)
    return spec.model_copy(update={"extra": {**spec.extra, **{name: params[name] for name in others}}})


def refuse_functions(value: object, path: str, node: str) -> None:
    """Raise ``InvalidSpec`` when the value is or holds a function of the DSL that nobody evaluated."""
    if isinstance(value, Mapping):
        if len(value) == 1 and (name := next(iter(value))) in _INTRINSIC:
            raise InvalidSpec(
                "read", f"{path} of node {node}", f"the function {name} was not evaluated",
                "Give this value in the inputs of the operation (create or configure): "
                "the engine evaluates such functions there, not in properties.",
            )  # fmt: skip
        for key, item in value.items():
            if isinstance(key, str) and not key.isascii() and _SURROGATE.search(key):
                raise InvalidSpec("read", f"{path} of node {node}", f"the key {key!r} is not Unicode text")
            if type(item) not in _PLAIN:
                refuse_functions(item, f"{path}.{key}", node)
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            refuse_functions(item, f"{path}[{at}]", node)


def _translate(error: ValidationError, params: Mapping[str, Any], node: str) -> InvalidSpec:
    found = [_explain(details, params) for details in error.errors(include_url=False)]
    path, reason, remedy = found[0]
    if len(found) > 1:
        shown = [f"{where} {why}" + (f" ({hint})" if hint else "") for where, why, hint in found[:_MOST_ERRORS]]
        path, reason, remedy = "params", f"{len(found)} values are wrong: {'; '.join(shown)}", ""
    return InvalidSpec("read", f"{path} of node {node}", reason, remedy)


def _explain(details: ErrorDetails, params: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return path, reason and remedy of one error of pydantic."""
    context = details.get("ctx", {})
    path = _path(details["loc"], params) + (f".{context['key']}" if "key" in context else "")
    reason = _reason(details, context)
    if "key" not in context and not _SECRET.intersection(map(str, details["loc"])) and details["type"] != "missing":
        reason += f", not {_shown(details['input'])}"
    return path, reason, str(context.get("remedy", ""))


def _path(location: tuple[int | str, ...], params: object) -> str:
    path, value = "params", params
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
            value = value[step] if isinstance(value, list | tuple) and step < len(value) else None
        elif isinstance(value, Mapping) and step not in value and value.get("type") == step:
            continue  # pydantic's tag of a union member
        else:
            path += f".{step}"
            value = value.get(step) if isinstance(value, Mapping) else None
    return path


def _reason(details: ErrorDetails, context: Mapping[str, Any]) -> str:
    """Return what is right, in the words of this plugin; the rest of pydantic's messages are good as they are."""
    match details["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "is required"
        case "literal_error" | "union_tag_invalid":
            return f"must be one of {context.get('expected') or context.get('expected_tags')}"
        case "union_tag_not_found":
            return "needs type: one of 'serial', 'usb', 'pci', 'tpm', 'mdev', 'scsi'"
        case "tuple_type":
            return "must be a list"
        case "model_type" | "model_attributes_type":
            return "must be a mapping"
        case _:
            return details["msg"].removeprefix("Input should ")


def _shown(value: object) -> str:
    shown = _CREDENTIALS.sub("***@", repr(value))
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
