"""Connections and events, on the test driver."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest

from cloudify_libvirt.core import events
from cloudify_libvirt.core.errors import (
    ConnectFailed,
    ConnectionLost,
    CoreError,
    InvalidSpec,
    Missing,
    from_libvirt,
    libvirt_call,
)
from cloudify_libvirt.core.session import Session, connect
from cloudify_libvirt.core.states import State
from cloudify_libvirt.core.wait import wait_until
from tests.driver.conftest import URI, define


def test_one_connection_per_uri(session: Session) -> None:
    assert connect(URI) is session
    assert session.driver == "test"


@pytest.mark.parametrize("reason", ["connection closed due to keepalive timeout", "client socket is closed"])
def test_a_lost_connection_is_worth_another_try_and_no_other_advice(reason: str) -> None:
    lost = libvirt.libvirtError("virStreamSend() failed")
    lost.err = (libvirt.VIR_ERR_INTERNAL_ERROR, 0, f"internal error: {reason}", 0, "", None, None, 0, 0)
    with pytest.raises(ConnectionLost) as failed, libvirt_call("write to", "it", "Is there room in the pool?"):
        raise lost
    assert failed.value.retryable and "room" not in str(failed.value)


def test_many_threads_share_one_connection(session: Session) -> None:
    found: list[Session] = []
    threads = [threading.Thread(target=lambda: found.append(connect(URI))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {session} and len(found) == 16


def test_a_host_that_does_not_answer_keeps_nobody_from_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cloudify_libvirt.core.session.OPEN_TIMEOUT_S", 30.0)
    (tmp_path / "host.xml").write_text("<node/>")
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as thread:
        slow = thread.submit(connect, f"qemu+tcp://127.0.0.1:{silent.getsockname()[1]}/system")
        call, _address = silent.accept()
        with call:
            assert connect(f"test://{tmp_path}/host.xml").alive
            assert not slow.done()
        assert isinstance(slow.exception(), CoreError)


@pytest.mark.parametrize(
    ("reason", "retryable", "is_absent"),
    [
        ("no connection driver available for lxc:///system", False, True),
        ("Failed to connect socket to '/run/libvirt/virtlxcd-sock': No such file or directory", True, True),
        ("no answer within 20 s", True, False),
    ],
)
def test_a_driver_that_does_not_answer_is_not_one_without_domains(
    session: Session, monkeypatch: pytest.MonkeyPatch, reason: str, retryable: bool, is_absent: bool
) -> None:
    """What its domains use must not be deleted; the next look asks again."""

    def refuse(uri: str) -> Session:
        raise ConnectFailed("connect to", uri, reason, retryable=retryable)

    here = Session("qemu:///system", session.connection)
    here._facts["driver"] = "QEMU"
    monkeypatch.setattr("cloudify_libvirt.core.session.connect", refuse)
    if is_absent:
        assert here.drivers() == [here]
        return
    for _ in range(2):
        with pytest.raises(ConnectFailed, match="no answer within 20 s"):
            here.all_domains()


def test_a_dead_connection_is_opened_anew(tmp_path: Path) -> None:
    host = tmp_path / "host.xml"
    host.write_text("<node/>")
    first = connect(f"test://{host}")
    assert first.alive
    first.connection.close()
    assert not first.alive
    second = connect(f"test://{host}")
    assert second is not first and second.alive


def test_a_fact_is_asked_once(session: Session) -> None:
    asked: list[int] = []
    for _ in range(3):
        assert session.fact("number of asks", lambda: asked.append(1) or len(asked)) == 1
    assert asked == [1]


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("lxc:///system", True),
        ("qemu+unix:///system?socket=/run/x", True),
        ("qemu+ssh://root@host/system", False),
        ("qemu+tls://host/system", False),
        ("qemu://host/system", False),
        ("qemu+ssh:///system", False),
        (URI, True),
    ],
)
def test_whose_files_the_hypervisor_has(uri: str, local: bool, session: Session) -> None:
    assert Session(uri, session.connection).is_local is local


@pytest.mark.parametrize("uri", ["", "  ", None, {"get_attribute": ["a", "b"]}])
def test_what_is_no_uri(uri: object) -> None:
    with pytest.raises(InvalidSpec, match="not a libvirt URI"):
        connect(uri)  # type: ignore[arg-type]


def test_a_socket_that_nobody_listens_on_may_come_back() -> None:
    with pytest.raises(ConnectFailed, match=r"hypervisor qemu\+unix:.*systemctl start libvirtd") as caught:
        connect("qemu+unix:///system?socket=/nonexistent/socket")
    assert caught.value.retryable


def test_a_wrong_uri_stays_wrong() -> None:
    with pytest.raises(CoreError, match="hypervisor test:///nonexistent") as caught:
        connect("test:///nonexistent.xml")
    assert not caught.value.retryable


def test_a_failed_open_is_not_remembered(tmp_path: Path) -> None:
    uri = f"test://{tmp_path}/host.xml"
    with pytest.raises(CoreError):
        connect(uri)
    (tmp_path / "host.xml").write_text("<node/>")
    assert connect(uri).alive


def test_the_event_loop_runs_once() -> None:
    events.ensure_loop()
    events.ensure_loop()
    assert [t.name for t in threading.enumerate()].count("libvirt events") == 1


def test_an_event_wakes_who_waits(session: Session) -> None:
    """With a poll of two minutes, only an event can end this wait in time."""
    domain = define(session, "woken")
    starter = threading.Timer(0.2, domain.handle.create)
    starter.start()
    seen = wait_until(
        lambda: domain.state is State.RUNNING, timeout_s=60, signal=session.changed, poll_s=120
    )  # fmt: skip
    starter.join()
    assert seen is True


def test_translation_names_action_object_and_cause(session: Session) -> None:
    with pytest.raises(Missing, match=r"cannot find domain 'x': Domain not found.*\. Make it\.") as caught:  # noqa: SIM117
        with libvirt_call("find", "domain 'x'", "Make it."):
            session.connection.lookupByName("nobody")
    assert (caught.value.action, caught.value.target, caught.value.remedy) == ("find", "domain 'x'", "Make it.")
    assert type(caught.value.__cause__).__name__ == "libvirtError"
    assert type(from_libvirt(caught.value.__cause__, "a", "b")) is Missing


def until_events_end(session: Session) -> None:
    """Return when no event came for half a second: each of define and start sends some, a moment later."""
    seen = -1
    while seen != session.changed.count:
        seen = session.changed.count
        session.changed.wait(seen, 0.5)


def test_a_domain_is_asked_again_after_a_change_alone(session: Session) -> None:
    domain = define(session, "changing")
    until_events_end(session)
    asked: list[str] = []

    def state(handle: Any) -> tuple[str, int]:
        asked.append(handle.name())
        return handle.name(), handle.state()[0]

    first = dict(session.of_domains(state))
    asked.clear()
    assert dict(session.of_domains(state)) == first
    assert asked == []
    domain.handle.create()
    assert wait_until(
        lambda: dict(session.of_domains(state))["changing"] != first["changing"], timeout_s=120, signal=session.changed
    )
    assert set(asked) == {"changing"}


def test_a_domain_that_came_or_went_is_seen_at_once(session: Session) -> None:
    def name(handle: Any) -> str:
        return str(handle.name())

    session.of_domains(name)
    domain = define(session, "coming")
    assert "coming" in session.of_domains(name)
    domain.handle.undefine()
    assert "coming" not in session.of_domains(name)


def test_threads_ask_of_domains_at_once(session: Session) -> None:
    """The engine may run operations in several threads, which share the connection."""
    failures: list[Exception] = []

    def ask(number: int) -> None:
        try:
            for round_ in range(30):
                domain = define(session, f"asked-{number}-{round_}", mac=f"52:54:00:00:{number:02x}:{round_:02x}")
                names = session.of_domains(lambda handle: str(handle.name()))
                assert domain.name in names
                domain.handle.undefine()
        except (AssertionError, CoreError, RuntimeError) as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_host_that_nobody_knows_is_not_asked_again() -> None:
    with pytest.raises(ConnectFailed) as failure:
        connect("qemu+tcp://-no-host-has-such-a-name/system")
    assert not failure.value.retryable
    assert "/etc/hosts" in failure.value.remedy
