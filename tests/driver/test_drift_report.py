"""Whose doing a difference is: one's own new declaration is told as wanted, what somebody changed as drift."""

from __future__ import annotations

import logging

import pytest

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.core.session import Session
from tests.driver.conftest import Node
from tests.driver.test_operations import install, uninstall


def told(node: Node, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and text of what a check says."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        node.run(domain_tasks.check_drift)
    said = [(one.levelname, one.getMessage()) for one in caplog.records]
    return [(level, text) for level, text in said if text.startswith(("drift:", "wanted:", "waits:"))]


def describe(session: Session, text: str) -> None:
    """Change the description as somebody else would."""
    handle = session.connection.lookupByName("vm")
    xml = handle.XMLDesc()
    old = xml.partition("<description>")[2].partition("</description>")[0]
    session.connection.defineXML(xml.replace(f"<description>{old}<", f"<description>{text}<"))


def test_whose_doing_it_is(session: Session, vm: Node, caplog: pytest.LogCaptureFixture) -> None:
    vm.params["description"] = "first"
    install(vm)
    assert told(vm, caplog) == []

    vm.params.update(description="second", memory="96 MiB")
    own = told(vm, caplog)
    assert {level for level, _ in own} == {"INFO"}
    assert ("INFO", "wanted: domain 'vm': description first -> second (live)") in own
    assert ("INFO", "wanted: domain 'vm': memory 64 MiB -> 96 MiB (restart)") in own

    vm.params.update(description="first", memory="64 MiB")
    describe(session, "by somebody")
    foreign = told(vm, caplog)
    assert {level for level, _ in foreign} == {"WARNING"}
    assert ("WARNING", "drift: domain 'vm': description (config): declared first, found by somebody") in foreign

    vm.params["title"] = "mine"
    both = told(vm, caplog)
    assert {level for level, text in both if "title" in text} == {"INFO"}
    assert {level for level, text in both if "description" in text} == {"WARNING"}
    vm.run(domain_tasks.update)
    assert told(vm, caplog) == []
    uninstall(vm)


def test_what_an_update_refused_is_still_wanted(session: Session, vm: Node, caplog: pytest.LogCaptureFixture) -> None:
    install(vm)
    vm.params.update(arch="aarch64")
    vm.workflow = "update"
    try:
        vm.run(domain_tasks.update)
    finally:
        vm.workflow = ""
    assert "arch" in vm.runtime["update_refused"]
    said = told(vm, caplog)
    assert said and {level for level, _ in said} == {"INFO"} and "arch" in said[0][1]
    uninstall(vm)


def test_values_that_nobody_records_are_told_as_wanted(
    session: Session, vm: Node, caplog: pytest.LogCaptureFixture
) -> None:
    vm.params["graphics"] = [{"type": "vnc", "port": 5901}]
    install(vm)
    vm.params["graphics"] = [{"type": "vnc", "port": 5902}]
    said = told(vm, caplog)
    assert said and {level for level, _ in said} == {"INFO"} and "graphics" in said[0][1]
    uninstall(vm)
