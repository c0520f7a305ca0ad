"""Where an operation writes down what it is about to make, before it makes it."""

from __future__ import annotations

from typing import Any, Protocol


class Journal(Protocol):
    """A small durable store of JSON values, one per managed object."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return what was put, or the default."""

    def put(self, **values: Any) -> None:
        """Store the values; they survive a kill of this process from the return on."""

    def note(self, text: str) -> None:
        """Tell the user about a step."""

    def warn(self, text: str) -> None:
        """Tell the user about something that was left alone, and why."""
