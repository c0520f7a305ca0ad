"""Checks and changes as the engine meets them: outages, attempts that are used up, and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cloudify.exceptions import OperationRetry

from cloudify_libvirt import network_tasks
from cloudify_libvirt.checking import changes, checks
from cloudify_libvirt.core.errors import Busy, ConnectionLost, CoreError
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.request import Request
from tests.driver.conftest import Node


@pytest.fixture
def net(session: Session) -> Node:
    node = Node(name="net", params={"name": "checked"})
    node.run(network_tasks.create)
    return node


@pytest.mark.parametrize(
    ("attempt", "again"),
    [((0, 0), False), ((0, 3), True), ((2, 3), True), ((3, 3), False), ((500, -1), True)],
    ids=["none left: local mode", "first", "last but one", "last", "without end"],
)
def test_what_may_go_another_time_is_no_failure_with_the_last_attempt(
    net: Node, attempt: tuple[int, int], again: bool
) -> None:
    """The engine reinstalls what has used up its attempts, too."""

    @changes("network")
    def busy(_request: Request) -> None:
        raise Busy("change", "it", "somebody else works on it")

    net.workflow, net.attempt = "csys_new_deployment_update", attempt
    if again:
        with pytest.raises(OperationRetry, match="somebody else works on it"):
            net.run(busy)
        assert "update_refused" not in net.runtime
    else:
        net.run(busy)
        assert "somebody else works on it" in net.runtime["update_refused"]


def test_a_request_that_cannot_be_read_is_refused_in_the_same_way(net: Node) -> None:
    net.runtime["libvirt_auth"], net.workflow = "nonsense://", "update"
    net.run(network_tasks.update)
    assert "nonsense" in net.runtime["update_refused"]


@pytest.mark.parametrize("make", [checks, changes])
@pytest.mark.parametrize("workflow", ["", "update"])
def test_an_outage_is_bridged(net: Node, make: Callable[..., Any], workflow: str) -> None:
    """Also where the engine would not try again, and none of it is taken for a finding."""
    seen: list[Request] = []

    @make("network")
    def cut_off(request: Request) -> str:
        seen.append(request)
        if len(seen) == 1:
            raise ConnectionLost("look at", "it", "client socket is closed")
        return "done"

    net.workflow = workflow
    assert net.run(cut_off) == ("done" if make is checks else None)
    assert len(seen) == 2 and seen[0] is not seen[1], "from the beginning"
    assert "update_refused" not in net.runtime


def test_what_cannot_be_told_is_asked_again(net: Node) -> None:
    @checks("network")
    def blind(_request: Request) -> None:
        raise CoreError("look at", "it", "nobody answers")

    with pytest.raises(OperationRetry, match="cannot tell: cannot look at it: nobody answers"):
        net.run(blind)
