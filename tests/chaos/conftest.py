"""The kills run in a lab; their figures are shown at the end."""

from __future__ import annotations

from typing import Any

from tests.chaos.trials import Figures
from tests.real.conftest import inside_lab  # noqa: F401 - a fixture

shown: dict[str, Figures] = {}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a table of the kills."""
    if not shown:
        return
    terminalreporter.section("kill -9")
    for name, figures in shown.items():
        terminalreporter.line(
            f"{name}: {figures.points} points, {figures.tried} tried ({figures.in_the_middle} within a call), "
            f"{figures.survived} survived, {figures.seconds:.0f} s"
        )
