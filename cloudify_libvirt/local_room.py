"""What local mode says where it cannot write, as on a full disk: which file, and what to do.

The engine's own message has no file in it; what a workflow failed of is lost when its end cannot be written down; and
cfy's last words are a traceback of the log that they could not be written to.

Source: cloudify.workflows.local.Environment.execute and cloudify_cli.cli.cfy.set_cli_except_hook of 7.0
"""

from __future__ import annotations

import errno
import functools
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_CFY = "cloudify_cli.cli.cfy"
# Logs of which it is said already that they cannot be written.
_silent: set[str] = set()
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_OF_FILES = _FULL | {errno.EIO, errno.EROFS, errno.EFBIG}
_SYSTEMS = re.compile(r"\[Errno (\d+)\] ([^:]*)")


def naming(around: Callable[..., Any], storage: Any, *args: Any, **kwargs: Any) -> Any:
    """Call what reads or writes the engine's state."""
    speak_without_log()
    with named(str(getattr(storage, "_root_storage_dir", ""))):
        return around(storage, *args, **kwargs)


@contextmanager
def named(place: str) -> Iterator[None]:
    """Say which file an error is of where the system does not say it, and what to do; ``place`` is at least near it."""
    try:
        yield
    except OSError as error:
        told = _told(error, place)
        if told is error:
            raise
        raise told from error


def _told(error: OSError, place: str) -> OSError:
    """Return the error with a file's name and, of a full disk, advice, which cfy prints below the message."""
    told = error
    if isinstance(error, shutil.Error):
        told = _first(error)
    elif error.filename is None and error.errno in _OF_FILES and place:
        told = OSError(error.errno, error.strerror, place)
    if told.errno in _FULL and told.filename and not hasattr(told, "possible_solutions"):
        advice = f"Make room on the file system of {told.filename}, then run the same again."
        told.possible_solutions = [advice]  # type: ignore[attr-defined]
    return told


def _first(error: shutil.Error) -> OSError:
    """Return the first of many files that could not be copied, as one error."""
    files = error.args[0]
    # Of a whole directory it is a list; why is the system's error in words.
    said = _SYSTEMS.match(str(files[0][2])) if isinstance(files, list) else None
    if said is None:
        return error
    return OSError(int(said[1]), f"{said[2]} ({len(files)} files could not be copied)", str(files[0][1]))


def ending(engines: Callable[..., Any], storage: Any, execution_id: Any, error: Any = None) -> Any:
    """Note how a workflow ended; where that cannot be written, what it failed of is said all the same."""
    try:
        return engines(storage, execution_id, error)
    except OSError as unnoted:
        if error is None:
            raise
        _say(f"cannot note that the workflow has ended: {unnoted}", "cfy executions list will show it as begun")


def speak_without_log() -> None:
    """Let cfy say all that it says also where its log takes none."""
    if getattr(sys.excepthook, "__module__", "") == _CFY:
        sys.excepthook = functools.partial(_last_words, sys.excepthook)
        known = logging.FileHandler.handleError
        logging.FileHandler.handleError = functools.partialmethod(_unwritten, known)  # type: ignore[method-assign,assignment]


def _last_words(hook: Callable[..., Any], kind: Any, error: Any, trace: Any) -> None:
    try:
        hook(kind, error, trace)
    except OSError as problem:
        # It could not open its log, which comes first.
        _say(error, *getattr(error, "possible_solutions", ()), f"cfy's log could not be written: {problem}")


def _unwritten(handler: Any, known: Callable[..., None], record: Any) -> None:
    """Say once that a log cannot be written, where logging would print a traceback for each line of it."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        known(handler, record)
    elif handler.baseFilename not in _silent:
        _silent.add(handler.baseFilename)
        _say(f"{handler.baseFilename} could not be written: {error}")


def _say(*lines: object) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in lines))
