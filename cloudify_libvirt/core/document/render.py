"""From variables to a document that libvirt's schema accepts; errors name the line of the template. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import (
    FileSystemLoader,
    StrictUndefined,
    Template,
    TemplateNotFound,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
)
from jinja2.exceptions import TemplateRuntimeError
from lxml import etree
from markupsafe import Markup, escape

from cloudify_libvirt.core.document import sandbox, template_lines
from cloudify_libvirt.core.document import schema as schemas
from cloudify_libvirt.core.document.compiled import CompiledTemplates
from cloudify_libvirt.core.document.sandbox import BoundedEnvironment
from cloudify_libvirt.core.document.template_lines import Position, error_position, output_positions
from cloudify_libvirt.core.errors import InvalidTemplate

T = TypeVar("T")

_DECLARATION = re.compile(r"\s*<\?xml\s[^>]*\?>")
_UNDEFINED = re.compile(r"'(\w+)' is undefined")
# libxml2 counts lines of the output, which nobody has seen.
_OUTPUT_LINE = re.compile(r",? line \d+(, column \d+)?")
_PACKAGE = Path(__file__).resolve().parents[2]
# What an expression of a template can raise with values that its author did not expect.
_EXPRESSION_ERRORS = (
    TemplateRuntimeError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError,
    OverflowError,
)  # fmt: skip


@dataclass(frozen=True)
class TemplateSource:
    """A template: its text, or None for the packaged file ``name``; errors call it ``origin``."""

    text: str | None = None
    name: str = "domain.xml.j2"
    origin: str = "packaged"

    @property
    def label(self) -> str:
        """What errors call the template."""
        return self.name if self.text is None else self.origin


def render(source: TemplateSource, variables: Mapping[str, Any], *, schema: str, node: str) -> str:
    """Return the document, without an XML declaration.

    ``schema`` is domain, network, storagepool, storagevol or domainsnapshot.

    Raises:
        InvalidTemplate: the template does not compile or render, or its output is not well-formed or not valid.
    """
    job = _Job(source, variables, f"template {source.label} of node {node}")
    text = job.rendered()
    job.check(text, schema)
    return text.strip() + "\n"


# A device is checked in a domain, all in one line: the device's own lines keep their numbers.
_BEFORE_DEVICE = "<domain type='qemu'><name>x</name><memory>1</memory><os><type>hvm</type></os><devices>"
_AFTER_DEVICE = "</devices></domain>"


def render_device(source: TemplateSource, variables: Mapping[str, Any], *, node: str) -> str:
    """Return one device of a domain, rendered and checked as in a domain's definition.

    Raises:
        InvalidTemplate: as ``render``, or the template gives none or several devices.
    """
    job = _Job(source, variables, f"template {source.label} of node {node}")
    text = f"{_BEFORE_DEVICE}{job.rendered().strip()}{_AFTER_DEVICE}"
    job.check(text, "domain")
    devices = [child for group in schemas.parse(text.encode()).findall("devices") for child in group]
    if len(devices) != 1:
        found = ", ".join(str(device.tag) for device in devices) or "none"
        raise InvalidTemplate(
            "render", job.target, f"it must give one device, such as <disk> or <interface>; it gives {found}"
        )
    return etree.tostring(devices[0], encoding="unicode")


def toxml(value: Any) -> Markup:
    """Return XML elements for a mapping: lists repeat their element, @key is an attribute, #text the text."""
    if not isinstance(value, Mapping):
        return escape("" if value is None else str(value).lower() if isinstance(value, bool) else value)
    return Markup("").join(
        _element(str(name), item)
        for name, content in value.items()
        for item in (content if isinstance(content, list | tuple) else [content])
    )


def _element(name: str, content: Any) -> Markup:
    parts = dict(content) if isinstance(content, Mapping) else {"#text": content}
    pairs = [(key[1:], parts.pop(key)) for key in list(parts) if str(key).startswith("@")]
    attributes = Markup("").join(Markup(' {}="{}"').format(key, toxml(value)) for key, value in pairs)
    inner = toxml(parts.pop("#text", None)) + toxml(parts)
    return Markup("<{0}{1}>{2}</{0}>").format(name, attributes, inner)


def attributes(values: Mapping[str, Any]) -> Markup:
    """Return the attributes of an element, each after a blank; "" and None are left out, booleans are yes or no."""
    given = {name: value for name, value in values.items() if not _unset(value)}
    words = {name: ("yes" if value else "no") if isinstance(value, bool) else value for name, value in given.items()}
    return Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in words.items())


def _unset(value: Any) -> bool:
    # What an inline `if` without `else` gives.
    return value is None or isinstance(value, Undefined) or value == ""


def on_off(value: Any) -> Any:
    """Return on or off for a boolean; anything else, such as "" for not set, as it is."""
    return ("on" if value else "off") if isinstance(value, bool) else value


def template_directory() -> Path:
    """Return the packaged templates: inside the package of a wheel, beside it in a checkout."""
    inside = _PACKAGE / "templates"
    return inside if inside.is_dir() else _PACKAGE.parent / "templates"


@lru_cache(maxsize=1)
def environment() -> BoundedEnvironment:
    """Return what templates are compiled by: strict, and without any way out."""
    made = BoundedEnvironment(
        loader=FileSystemLoader(template_directory()), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, auto_reload=False,
        bytecode_cache=CompiledTemplates(__file__, sandbox.__file__, template_lines.__file__),
    )  # fmt: skip
    made.filters |= {"toxml": toxml, "attributes": attributes, "on_off": on_off}
    return made


@lru_cache(maxsize=128)
def _compiled(text: str | None, name: str) -> Template:
    return environment().get_template(name) if text is None else environment().from_string(text)


@dataclass(frozen=True)
class _Job:
    """One rendering, with what its errors need."""

    source: TemplateSource
    variables: Mapping[str, Any]
    target: str

    def rendered(self) -> str:
        template = self._guarded(lambda: _compiled(self.source.text, self.source.name))
        text = self._guarded(lambda: sandbox.rendered(template, self.variables))
        # The parser gets bytes in UTF-8, whatever a declaration says; its lines stay where they are.
        return _DECLARATION.sub(lambda found: "\n" * found[0].count("\n"), text, count=1)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except TemplateSyntaxError as error:
            raise self._error(Position(error.name, error.lineno), f"syntax error: {error.message}") from error
        except UndefinedError as error:
            reason = str(error.message)
            raise self._error(error_position(error.__traceback__), reason, self._known(reason)) from error
        except TemplateNotFound as error:
            raise self._error(error_position(error.__traceback__), f"there is no template {error.name}") from error
        except _EXPRESSION_ERRORS as error:
            reason = f"{type(error).__name__}: {error}"
            raise self._error(error_position(error.__traceback__), reason) from error

    def _known(self, reason: str) -> str:
        """Return the remedy for an undefined variable; a missing key of a mapping has none."""
        found = _UNDEFINED.fullmatch(reason)
        near = difflib.get_close_matches(found[1], self.variables, n=1) if found else []
        if near:
            return f"Did you mean {near[0]}?"
        return f"The variables are {', '.join(sorted(self.variables))}." if found else ""

    def check(self, text: str, schema: str) -> None:
        document = text.encode("utf-8", "surrogatepass")
        try:
            root = schemas.parse(document)
        except etree.XMLSyntaxError as error:
            reason = _OUTPUT_LINE.sub("", error.msg or "")
            raise self._error(self._position(error.lineno or 1), f"not well-formed XML: {reason}") from error
        if root.getroottree().docinfo.doctype:
            raise self._error(Position(self.source.label, 1), "a DOCTYPE is not allowed", "Remove it.")
        found = schemas.violation(document, schema, root)
        if found is not None:
            where = self._where(self._position(found.line))
            raise InvalidTemplate("render", self.target, f"{found.element} ({where}) {found.reason}", found.hint)

    def _position(self, line: int) -> Position:
        template = _compiled(self.source.text, self.source.name)
        positions = output_positions(template, self.variables)
        return positions[min(line, len(positions)) - 1] if positions else Position(None, 1)

    def _error(self, position: Position | None, reason: str, remedy: str = "") -> InvalidTemplate:
        where = f"{self._where(position)}: " if position else ""
        return InvalidTemplate("render", self.target, where + reason, remedy)

    def _where(self, position: Position) -> str:
        return f"line {position.line} of {position.template or self.source.label}"
