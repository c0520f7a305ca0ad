"""The kills run in a lab; their figures are shown at the end."""

from __future__ import annotations

from typing import Any

from tests.real.conftest import inside_lab  # noqa: F401 - a fixture

# Of a test's properties, which reach the process that reports, whichever ran it.
FIGURES = "figures of kills"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a table of the kills."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    lines = [line for report in reports for name, line in report.user_properties if name == FIGURES]
    if lines:
        terminalreporter.section("kill -9, and full disks")
    for line in lines:
        terminalreporter.line(line)
