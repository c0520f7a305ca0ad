"""Which line of which template made a line of the output: for errors only, so it may be slow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import FrameType, GeneratorType, TracebackType
from typing import Any

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from markupsafe import Markup


@dataclass(frozen=True)
class Position:
    """A line of a template; ``template`` is None for one that has no file name."""

    template: str | None
    line: int


class LineKeepingGenerator(CodeGenerator):
    """Jinja's compiler, with the line of each piece of constant text in the debug information.

    The original merges neighbours and then knows only where the first of them began.
    """

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:  # noqa: N802 - Jinja's visitor names
        """Write each child on its own."""
        for child in node.nodes:
            self.newline(child)
            super().visit_Output(nodes.Output([child], lineno=child.lineno), frame)


def output_positions(template: Template, variables: Mapping[str, Any]) -> list[Position]:
    """Render again and return the position of each line of the output, the first one first."""
    running: Any = template.root_render_func(template.new_context(dict(variables)))
    lines: list[Position] = []
    fresh = True
    for chunk in running:
        position = _of_generator(running)
        for at, piece in enumerate(chunk.split("\n")):
            # Constant text spans lines of the template; the value of an expression does not.
            offset = 0 if isinstance(chunk, Markup) else at
            here = Position(position.template, position.line + offset)
            if at or not lines:
                lines.append(here)
                fresh = True
            if fresh and piece.strip():
                lines[-1], fresh = here, False
    return lines


def error_position(trace: TracebackType | None) -> Position | None:
    """Return the innermost line of a template in a traceback."""
    found = [position for position in map(_of_step, _steps(trace)) if position]
    return found[-1] if found else None


def _steps(trace: TracebackType | None) -> Iterable[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _of_step(step: TracebackType) -> Position | None:
    return _of_frame(step.tb_frame, step.tb_lineno)


def _of_generator(running: Any) -> Position:
    while isinstance(running.gi_yieldfrom, GeneratorType):
        running = running.gi_yieldfrom
    found = _of_frame(running.gi_frame, running.gi_frame.f_lineno)
    return found or Position(None, 1)


def _of_frame(frame: FrameType, line: int) -> Position | None:
    # Set by jinja2.environment.Template._from_namespace in the globals of the compiled code.
    template = frame.f_globals.get("__jinja_template__")
    return Position(template.name, template.get_corresponding_lineno(line)) if template is not None else None
