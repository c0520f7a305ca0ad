"""Jinja for templates of strangers: no way to Python's objects, no files, and an end to time and memory. Pure.

Jinja's own sandbox keeps Python's internals out of reach and bounds ``range``. It does not bound what operators, loops
and filters make of that: a template of one line could take all of a machine.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

from jinja2 import Template, nodes
from jinja2.compiler import Frame
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from cloudify_libvirt.core.document.template_lines import LineKeepingGenerator

# Far above what a document of libvirt or a seed needs; libxml2 takes 10 MB of text at most.
MOST_CHARACTERS = 4 << 20
MOST_SECONDS = 10.0
# Of a value on the way, such as a list that is filtered.
_MOST_ITEMS = 1 << 20
_MOST_BITS = 4096
# Filters that make text or lists as long as a number says, or as two texts together say.
_SIZED_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "tojson", "truncate", "wordwrap")
# A width or precision of six digits, or one that comes from a value.
_WIDE = re.compile(r"\d{6}|%[^a-zA-Z%]*\*|\{[^{}]*\{")

_used = threading.local()


class TooMuch(SecurityError):
    """A template takes more time or memory than any document needs."""


def rendered(template: Template, variables: Mapping[str, Any]) -> str:
    """Return what the template makes of the variables.

    Raises:
        TooMuch: it takes more than ``MOST_SECONDS`` or makes more than ``MOST_CHARACTERS``.
    """
    with _bounded():
        return "".join(_counted(template.root_render_func(template.new_context(dict(variables)))))


@contextmanager
def _bounded() -> Iterator[None]:
    outer = vars(_used).copy()
    _used.end, _used.buffered = time.monotonic() + MOST_SECONDS, 0
    try:
        yield
    finally:
        vars(_used).clear()
        vars(_used).update(outer)


def _counted(pieces: Iterable[str]) -> Iterator[str]:
    made = 0
    for piece in pieces:
        made += len(piece)
        if made > MOST_CHARACTERS:
            _check_characters(made)
        yield piece


def _check_characters(count: int) -> None:
    if count > MOST_CHARACTERS:
        raise TooMuch(f"it makes more than {MOST_CHARACTERS >> 20} million characters")


def tick() -> None:
    """Raise ``TooMuch`` when the time of this thread's rendering is over."""
    if time.monotonic() > getattr(_used, "end", float("inf")):
        raise TooMuch(f"it takes more than {MOST_SECONDS:g} s")


def count(characters: int) -> None:
    """Count text that goes into a variable or a macro's result, which nobody may ever see."""
    _used.buffered = getattr(_used, "buffered", 0) + characters
    _check_characters(_used.buffered // 4)


class BoundedGenerator(LineKeepingGenerator):
    """Jinja's compiler, with a look at the clock in each turn of a loop, and with all text counted."""

    def blockvisit(self, nodes: Any, frame: Frame) -> None:
        """Write the body of a block, the look at the clock first."""
        self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:  # noqa: N802 - Jinja's visitor names
        """Write each child, with the length of constant text that goes into a buffer."""
        for child in node.nodes:
            if frame.buffer is not None and isinstance(child, nodes.TemplateData):
                self.writeline(f"environment.count({len(child.data)})")
            super().visit_Output(nodes.Output([child], lineno=child.lineno), frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """Write ``a ~ b``, the result checked."""
        self.write("environment.finalize(")
        super().visit_Concat(node, frame)
        self.write(")")


class BoundedEnvironment(SandboxedEnvironment):
    """Jinja's sandbox with bounds for operators, methods and filters."""

    code_generator_class = BoundedGenerator
    intercepted_binops = frozenset({"*", "**", "%", "+"})
    tick = staticmethod(tick)
    count = staticmethod(count)

    def __init__(self, **options: Any) -> None:
        """Take Jinja's options."""
        super().__init__(finalize=_finalized, **options)
        self.filters |= {name: _bounded_filter(name, self.filters[name]) for name in _SIZED_FILTERS}
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]

    def make_globals(self, d: Any) -> dict[str, Any]:
        """Return a template's globals: one map, which is read faster than Jinja's chain of two."""
        return {**self.globals, **(d or {})}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute, unless the result would be larger than any document needs."""
        tick()
        if operator == "**" and _bits(left) * (abs(right) if isinstance(right, int) else 1) > _MOST_BITS:
            raise TooMuch("** makes too large a number")
        if operator == "*":
            _check_product(left, right)
        if operator == "%":
            _check_format(left)
        return _checked(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call what a template may call, in bounds."""
        tick()
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str | bytes | int):
            _check_sizes(owner, *arguments, *named.values())
        if name in ("format", "format_map"):
            # Jinja's replacement for these keeps the text only as its default wrapping's origin.
            _check_format(getattr(getattr(function, "__wrapped__", function), "__self__", ""))
        return _checked(super().call(context, function, *arguments, **named))


def _finalized(value: Any) -> Any:
    if isinstance(value, str):
        count(len(value))
    return value


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 1


def _check_product(left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Sized) and isinstance(other, int) and len(one) * other > _MOST_ITEMS:
            raise TooMuch("* makes too long a text or list")
    if _bits(left) + _bits(right) > _MOST_BITS:
        raise TooMuch("* makes too large a number")


def _check_format(form: Any) -> None:
    if isinstance(form, str) and _WIDE.search(form):
        raise TooMuch("a format has a width of more than five digits, or takes it from a value")


def _check_sizes(*values: Any) -> None:
    if any(isinstance(value, int) and abs(value) > _MOST_ITEMS for value in values[1:]):
        raise TooMuch("a length is too large")
    lengths = sorted(len(value) for value in values if isinstance(value, Sized))
    if len(lengths) > 1 and lengths[-1] * lengths[-2] > MOST_CHARACTERS:
        raise TooMuch("a replacement makes too long a text")


def _checked(value: Any) -> Any:
    if isinstance(value, str):
        _check_characters(len(value))
    if isinstance(value, list | tuple) and len(value) > _MOST_ITEMS:
        raise TooMuch(f"a list has more than {_MOST_ITEMS} items")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise TooMuch("a number is too large")
    return value


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(*arguments: Any, **named: Any) -> Any:
        tick()
        # Some get Jinja's environment first.
        values = [value for value in (*arguments, *named.values()) if isinstance(value, Sized | int)]
        if name == "format":
            _check_format(values[0] if values else "")
        else:
            _check_sizes(*values)
        return _checked(function(*arguments, **named))

    # Here Jinja keeps which first argument a filter takes.
    vars(bounded).update(vars(function))
    return bounded
