"""The lines of local mode's log: letter by letter the engine's."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from cloudify import logs

from cloudify_libvirt import local_lines

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}")
CONTEXTS: list[dict[str, Any]] = [
    {"deployment_id": "dep"},
    {"deployment_id": None},
    {"deployment_id": "dep", "node_id": "vm_1"},
    {"deployment_id": "dep", "node_id": "vm_1", "operation": "cloudify.interfaces.lifecycle.start"},
    {"deployment_id": "dep", "node_id": "vm_1", "operation": "start"},
    {"deployment_id": "dep", "operation": "a.b"},
    {"deployment_id": "dep", "node_id": "", "operation": None},
    {"deployment_id": "dep", "source_id": "a", "target_id": "b", "operation": "x.establish"},
    {"deployment_id": "dep", "node_id": "vm_1", "group": "g", "policy": "p", "trigger": "t"},
]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", ["task_started", "workflow_failed", "task_failed", "task_rescheduled", None])
@pytest.mark.parametrize("text", ["Task started 'x'", "ünicode {0} %s\nsecond", "", None])
def test_a_line(
    capsys: pytest.CaptureFixture[str], context: dict[str, Any], kind: str | None, text: str | None
) -> None:
    causes = {"task_error_causes": [{"traceback": "Traceback of one\n"}, {"traceback": "of another\n"}]}
    event = {"event_type": kind, "context": {**context, **causes}, "message": {"text": text, "arguments": None}}
    said = []
    for way in (local_lines._engines, local_lines.stdout_event_out):
        way(copy.deepcopy(event))
        said.append(capsys.readouterr().out)
    engines, ours = said
    assert TIME.sub("TIME", ours) == TIME.sub("TIME", engines)
    assert ours.count("TIME") == 0 and len(TIME.findall(ours)) == 1


def test_another_form_of_messages_is_the_engines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """cfy --json-output, or verbose, may have another class of messages."""

    class Short(logs.EVENT_CLASS):  # type: ignore[misc,name-defined]
        def __str__(self) -> str:
            return "short"

    monkeypatch.setattr(logs, "EVENT_CLASS", Short)
    local_lines.stdout_event_out({"event_type": "x", "context": {"deployment_id": "d"}, "message": {"text": "t"}})
    assert capsys.readouterr().out == "short\n"


def test_another_engine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_lines.digest() == local_lines._KNOWN
    monkeypatch.setattr(local_lines, "_KNOWN", "of another")
    monkeypatch.setattr(logs, "stdout_event_out", local_lines._engines)
    assert not local_lines.improve()
    assert logs.stdout_event_out is local_lines._engines
