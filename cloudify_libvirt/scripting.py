"""What the Python scripts under scripts/blueprint share: inputs, runtime properties, errors for the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cloudify.exceptions import NonRecoverableError, RecoverableError

from cloudify_libvirt.binding import own_side
from cloudify_libvirt.core.errors import CoreError, InvalidSpec
from cloudify_libvirt.record import Record


def run_script(script: Callable[[Any, Mapping[str, Any], Record], None], ctx: Any, inputs: Mapping[str, Any]) -> None:
    """Call ``script(ctx, inputs, record)``; on a relationship the source's instance is the one written to."""
    own = own_side(ctx)
    try:
        script(own, inputs, Record(own))
    except CoreError as error:
        kind = RecoverableError if error.retryable else NonRecoverableError
        raise kind(f"{own.instance.id}: {error}") from error


def text(inputs: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return an input that is text; without a ``default`` it must be there.

    Raises:
        InvalidSpec: it is missing, or something else (an intrinsic function that nobody evaluated).
    """
    value = inputs.get(name)
    if value in (None, ""):
        if default is None:
            raise InvalidSpec("run the script with", f"inputs.{name}", "it is missing", "Give it in the operation.")
        return default
    if not isinstance(value, str):
        raise InvalidSpec("run the script with", f"inputs.{name}", f"it is a {type(value).__name__}, not text")
    return value


def absolute(inputs: Mapping[str, Any], name: str, default: str | None = None) -> Path | None:
    """Return an input that is an absolute path; None where it is not set and ``default`` is ``""``."""
    value = text(inputs, name, default)
    if not value:
        return None
    path = Path(value)
    if not path.is_absolute() or ".." in path.parts:
        reason = f"{value!r} is not an absolute path"
        raise InvalidSpec("run the script with", f"inputs.{name}", reason, "The engine's directory is not yours.")
    return path
