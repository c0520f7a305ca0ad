"""A connection that is lost: what was cut off begins anew on another one, within a bound."""

from __future__ import annotations

from typing import Any

import pytest

from cloudify_libvirt.core import outage, session
from cloudify_libvirt.core.errors import Conflict, ConnectFailed, ConnectionLost
from tests.driver.conftest import URI

GONE = "qemu+unix:///system?socket=/nonexistent/socket"


def lose(uri: str, connection: Any) -> None:
    """As if there had been a connection, which is dead now."""
    dead = session.connect(connection)
    handle = dead.connection
    session._sessions[(session.os.getpid(), uri)] = session.Session(uri, _Dead(handle))


class _Dead:
    """A connection of libvirt's that says that it is dead."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def isAlive(self) -> int:  # noqa: N802 - libvirt's name
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_it_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    said: list[str] = []

    def call() -> str:
        seen.append(1)
        if len(seen) == 1:
            raise ConnectionLost("define", "it", "client socket is closed")
        return "done"

    assert outage.bridged(call, lambda: URI, said.append) == "done"
    assert len(seen) == 2
    expected = f"lost {URI} (client socket is closed); waiting up to 60 s for it, then this begins anew"
    assert said == [expected]


def test_a_call_that_ends_its_daemon_each_time_comes_to_an_end() -> None:
    seen: list[int] = []

    def call() -> None:
        seen.append(1)
        raise ConnectionLost("define", "it", "client socket is closed")

    with pytest.raises(ConnectionLost):
        outage.bridged(call, lambda: URI, lambda _text: None)
    assert len(seen) == outage.MOST_OUTAGES + 1


def test_other_errors_pass() -> None:
    def call() -> None:
        raise Conflict("define", "it", "the name is taken")

    with pytest.raises(Conflict):
        outage.bridged(call, lambda: URI, lambda _text: None)


def test_a_host_that_stays_away_is_waited_for_once() -> None:
    lose(GONE, URI)
    with pytest.raises(ConnectionLost, match="connect again to hypervisor"):
        session.connect(GONE)
    with pytest.raises(Exception, match=r"has been away for more than 0\.5 s .*systemctl start libvirtd") as failed:
        outage.returned(GONE, 0.5)
    assert failed.value.retryable  # type: ignore[attr-defined]
    with pytest.raises(ConnectFailed):
        session.connect(GONE)
