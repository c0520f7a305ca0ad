"""Variables for a template of the user's: what is not set, and what only older templates may leave out. Pure.

Templates were once rendered with undefined variables as nothing, and many ask ``{% if nvram %}`` or
``{{ card.type | default("virtio") }}``. A misspelt name must be an error all the same. So:

- a name that we know and nobody set is undefined for ``is defined`` and ``default``, and empty elsewhere;
- where the hardware is that of older blueprints, so is a name that we do not know and that resembles none that we do,
  with a warning: a variable of the author's own, which not every node gives;
- any other name is an error that names it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from jinja2 import TemplateSyntaxError, Undefined, meta, nodes

from cloudify_libvirt.core.document.render import TemplateSource, environment
from cloudify_libvirt.core.spec.base import Spec
from cloudify_libvirt.core.spec.domain import DomainSpec
from cloudify_libvirt.core.spec.variables import Facts, template_variables

# The lists that `devices` is split into, each there only with an entry.
_SPLIT = frozenset({"serial_devices", "usb_devices", "pci_devices", "tpm_devices"})
# As in domain_typ; a name of another meaning resembles ours less.
_RESEMBLANCE = 0.8
_BUILDS_ON_OTHERS = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)


class Unset(Undefined):
    """A value that nobody set: not defined, equal to "", and nothing in sums."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Undefined) or other == ""

    def __hash__(self) -> int:
        return hash("")

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __add__


class Open(dict[str, Any]):
    """Properties that scripts write, in an older template: a key that is not there is not set."""

    def __missing__(self, key: object) -> Any:
        return Unset(name=str(key))


class Entry(Open):
    """One disk, network or the like, in an older template: a key that it lacks must resemble none that it has."""

    def __missing__(self, key: object) -> Any:
        if _near(str(key), self):
            raise KeyError(key)
        return super().__missing__(key)


def _near(name: str, known: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches(name, map(str, known), n=1, cutoff=_RESEMBLANCE))


def own_variables(
    source: TemplateSource, spec: Spec, facts: Facts, ctx: Any, warn: Callable[[str], None]
) -> dict[str, Any]:
    """Return the variables of a template of the user's; ``warn`` hears of what is left out."""
    every = template_variables(spec, facts, ctx)
    if isinstance(spec, DomainSpec):
        every["devices"] = ""
    older = not getattr(spec, "modern", False)
    return filled(source, every, given=spec.extra, warn=warn if older else None)


def filled(
    source: TemplateSource,
    variables: Mapping[str, Any],
    *,
    given: Iterable[str] = (),
    warn: Callable[[str], None] | None,
) -> dict[str, Any]:
    """Return the variables with what is not set marked so; those ``given`` by the user's params stay as they are.

    With ``warn`` the template may be older, and what it leaves out is not set, too.
    """
    kept = {*given, "ctx"}
    older = warn is not None
    every = {name: value if name in kept else _marked(name, value, older) for name, value in variables.items()}
    if warn is None:
        return every
    if "ctx" in every:
        every["ctx"] = _opened(every["ctx"])
    for name, line in _left_out(source, every).items():
        warn(f"line {line} of {source.label}: nothing defines {name!r}; it is taken as empty")
        every[name] = Unset(name=name)
    return every


def _marked(name: str, value: Any, older: bool) -> Any:
    if (isinstance(value, str) and value == "") or (name in _SPLIT and not value):
        return Unset(name=name)
    if isinstance(value, list):
        return [_marked("", item, older) for item in value]
    if isinstance(value, Mapping):
        return (Entry if older else dict)({key: _marked(str(key), item, older) for key, item in value.items()})
    return value


def _opened(seen: Any) -> Any:
    """Return what is seen of the engine, with the properties of node and instance open."""
    if isinstance(seen, SimpleNamespace):
        return SimpleNamespace(**{name: _opened(part) for name, part in vars(seen).items()})
    if isinstance(seen, Mapping):
        return Open({key: _opened(value) for key, value in seen.items()})
    return [_opened(item) for item in seen] if isinstance(seen, list) else seen


def _left_out(source: TemplateSource, known: Mapping[str, Any]) -> dict[str, int]:
    """Return what a template reads that nobody defines and that is not misspelt, with the line of its first use."""
    try:
        tree = environment().parse(source.text or "")
    except TemplateSyntaxError:
        return {}
    if next(tree.find_all(_BUILDS_ON_OTHERS), None) is not None:
        return {}
    names = meta.find_undeclared_variables(tree) - known.keys() - environment().globals.keys()
    lines: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in names and not _near(node.name, known):
            lines.setdefault(node.name, node.lineno)
    return lines
