"""The loggers of operations: they say what the engine's say, and nothing is left of them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from cloudify import context, logs

from cloudify_libvirt import local_loggers

WAYS = [logs.init_cloudify_logger, local_loggers.init_cloudify_logger]


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelname, record.name, self.format(record)))


@pytest.mark.parametrize("way", WAYS)
def test_all_is_said_to_the_handler_and_above(way: Any) -> None:
    own, above = Kept(), Kept()
    logging.root.addHandler(above)
    try:
        logger = way(own, f"said {way.__module__}")
        logger.debug("one %s", "thing")
        logger.error("another")
    finally:
        logging.root.removeHandler(above)
    name = f"ctx.said {way.__module__}"
    assert own.said == [("DEBUG", name, "one thing"), ("ERROR", name, "another")]
    assert above.said == own.said


def test_none_is_kept() -> None:
    assert local_loggers.improve()
    known = set(logging.root.manager.loggerDict)
    for number in range(3):
        context.init_cloudify_logger(Kept(), f"gone {number}").info("said")
    assert set(logging.root.manager.loggerDict) - known <= {"ctx"}


def test_another_engine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "init_cloudify_logger", logs.init_cloudify_logger)
    monkeypatch.setattr(local_loggers, "_KNOWN", "of another")
    assert not local_loggers.improve()
    assert context.init_cloudify_logger is logs.init_cloudify_logger
