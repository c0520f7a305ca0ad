"""Loggers of operations that go with them.

The engine registers one under a name of its own for each operation that says something: it is never forgotten, and
each new one makes the engine's process look at all that there are, so that many machines cost more than their number.

Source: cloudify.logs.init_cloudify_logger of cloudify-common 7.0
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from typing import Any

from cloudify import context, logs

# Of the source of the function below, as of cloudify-common 7.0.5.
_KNOWN = "1ea96e76aaf149b2d85d0fb9a6d64719e48e81f95e305f5e3d3f4ebffe5ff10f"


def improve() -> bool:
    """Exchange how operations get their logger; False when the engine's way is not the known one."""
    known: Any = getattr(context, "init_cloudify_logger", None)
    if known is init_cloudify_logger:
        return True
    if known is not logs.init_cloudify_logger or digest() != _KNOWN:
        return False
    vars(context)["init_cloudify_logger"] = init_cloudify_logger
    return True


def digest() -> str:
    """Return the digest of the engine's function; "" where it cannot be read."""
    try:
        return hashlib.sha256(inspect.getsource(logs.init_cloudify_logger).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


class _Logger(logging.Logger):
    """A logger whose children find it, though nobody else does."""

    def getChild(self, suffix: str) -> Any:  # noqa: N802 - its name in logging
        """Return a logger below this one, whose messages come here."""
        child = super().getChild(suffix)
        child.parent = self
        return child


def init_cloudify_logger(handler: Any, logger_name: str, logging_level: int = logging.DEBUG) -> logging.Logger:
    """Return a logger that is like the engine's but for its name, by which nobody else gets it."""
    logger = _Logger(f"ctx.{logger_name}", logging_level)
    logger.parent = logging.getLogger("ctx")
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging_level)
    logger.addHandler(handler)
    return logger
