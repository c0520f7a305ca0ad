"""How checks are run: bounded, none stops the others, on a hypervisor without files; and what nodes say at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from cloudify.exceptions import NonRecoverableError

from cloudify_libvirt import domain_tasks
from cloudify_libvirt.cli.main import main
from cloudify_libvirt.core.doctor import room, table
from cloudify_libvirt.core.doctor.finding import Check, Finding, Noun, Target
from cloudify_libvirt.core.session import Session
from tests.driver.conftest import URI, Node, define


def one_check(run: Any, **more: Any) -> Check:
    return Check("odd", run, frozenset({"host"}), **more)


def examined(monkeypatch: pytest.MonkeyPatch, session: Session | None, *checks: Check) -> list[Finding]:
    monkeypatch.setattr(table, "CHECKS", checks)
    return list(table.examine(Target(URI, session)))


def test_a_check_that_hangs_is_left_behind(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(_target: Target) -> Iterator[Finding]:
        release.wait(120)
        yield room.room_left("x", 0, "/")

    monkeypatch.setattr(table, "DEADLINE_S", 2)
    begin = time.monotonic()
    found = examined(monkeypatch, session, one_check(hang), one_check(lambda _target: iter(())), table.CHECKS[0])
    release.set()
    assert time.monotonic() - begin < 60
    assert [(one.check, one.state) for one in found] == [("odd", "problem"), ("library", "ok")]
    assert "no answer within 2 s" in found[0].found


def test_what_cannot_be_read_is_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_target: Target) -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied", "/proc/secret")
        yield

    (found,) = examined(monkeypatch, session, one_check(unreadable))
    assert found.state == "unknown" and "/proc/secret" in found.found


def test_without_a_connection_only_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_target: Target) -> Iterator[Finding]:
        raise AssertionError
        yield

    (found,) = examined(monkeypatch, None, one_check(never))
    assert found.state == "unknown" and "no connection" in found.found


@pytest.mark.parametrize(("left", "state"), [(0, "problem"), (1 << 30, "warning"), (4 << 30, "ok")])
def test_room(left: int, state: str) -> None:
    assert room.room_left("disk", left, "/").state == state


def test_every_check_concerns_something_and_has_its_own_name() -> None:
    assert all(check.concerns and check.concerns <= set(get_args(Noun)) for check in table.CHECKS)
    assert len({check.name for check in table.CHECKS}) == len(table.CHECKS)
    assert all(check.run.__doc__ for check in table.CHECKS)


def test_the_test_driver_has_no_host() -> None:
    done = CliRunner().invoke(main, ["doctor", "--json", URI])
    assert done.exit_code == 0, done.output
    assert {one["check"] for one in json.loads(done.stdout)[0]["findings"]} == {
        "library", "names", "connection", "version", "clock",
    }  # fmt: skip


def test_one_problem_is_said_as_it_is(session: Session, vm: Node) -> None:
    define(session, "vm")
    with pytest.raises(NonRecoverableError, match=r"^vm_\w+: cannot define domain 'vm' on test:///default: another"):
        vm.run(domain_tasks.validate)
