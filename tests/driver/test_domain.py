"""The life of a domain, on the test driver."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import libvirt
import pytest

from cloudify_libvirt.core import states
from cloudify_libvirt.core.domain import Domain, quiet_change
from cloudify_libvirt.core.errors import Conflict, CoreError, InvalidTemplate
from cloudify_libvirt.core.session import Session
from cloudify_libvirt.core.states import State, Transition
from tests.driver.conftest import define, domain_xml


def to_off(domain: Domain) -> None:
    """A defined domain is off."""


def to_running(domain: Domain) -> None:
    domain.handle.create()


def to_paused(domain: Domain) -> None:
    domain.handle.create()
    domain.handle.suspend()


# Every row of the table: where it begins, and the state that libvirt reports at its end;
# None where the test driver refuses it (it has no agent, power button or init).
ROWS = {
    "START": (to_off, State.RUNNING),
    "SHUTDOWN": (to_running, State.SHUTOFF),
    "SHUTDOWN_AGENT": (to_running, None),
    "SHUTDOWN_ACPI": (to_running, None),
    "SHUTDOWN_SIGNAL": (to_running, None),
    "SHUTDOWN_INITCTL": (to_running, None),
    "DESTROY": (to_running, State.SHUTOFF),
    "SUSPEND": (to_running, State.PAUSED),
    "RESUME": (to_paused, State.RUNNING),
    "REBOOT": (to_running, State.RUNNING),
}


def test_every_row_of_the_table_is_here() -> None:
    assert set(ROWS) == {name for name, value in vars(states).items() if isinstance(value, Transition)}


@pytest.mark.parametrize("row", sorted(ROWS))
def test_transition(session: Session, row: str) -> None:
    begin, end = ROWS[row]
    transition: Transition = getattr(states, row)
    domain = define(session, "row")
    begin(domain)
    if end is None:
        with pytest.raises(CoreError, match=re.escape(f"cannot {transition.name} domain")):
            domain.change(transition, 1)
        assert quiet_change(domain, transition, 1) is False
        assert domain.state is State.RUNNING
    else:
        assert domain.change(transition, 5) is True
        assert domain.state is end and end in transition.ends


def test_a_transition_that_does_not_end_is_told(session: Session) -> None:
    domain = define(session, "slow")
    nothing = Transition("do nothing to", lambda handle: None, states.RUNNING)
    assert domain.change(nothing, 0.05) is False


def test_states_are_libvirts() -> None:
    for state in State:
        assert getattr(libvirt, f"VIR_DOMAIN_{state.name}") == state
    known = {n for n in vars(libvirt) if n.startswith("VIR_DOMAIN_SHUTOFF_") and n != "VIR_DOMAIN_SHUTOFF_LAST"}
    assert {getattr(libvirt, name) for name in known} - {0} == set(states.SHUTOFF_REASONS) - {states.GONE}


def test_start_and_stop_may_come_twice(session: Session) -> None:
    domain = define(session, "twice")
    for _ in range(2):
        domain.start()
        assert domain.state is State.RUNNING
    for _ in range(2):
        domain.stop(5)
        assert domain.state is State.SHUTOFF
    assert domain.off_reason == "it was shut down from inside"


def test_start_lets_a_paused_domain_go_on(session: Session) -> None:
    domain = define(session, "paused")
    to_paused(domain)
    domain.start()
    assert domain.state is State.RUNNING


def test_a_paused_domain_is_stopped(session: Session) -> None:
    domain = define(session, "paused")
    to_paused(domain)
    domain.stop(5)
    assert domain.off_reason == "it was shut down from inside"


def test_no_time_to_ask_means_destroy(session: Session) -> None:
    domain = define(session, "hurry")
    to_running(domain)
    domain.stop(0)
    assert domain.off_reason == "it was destroyed from outside"
    domain.destroy()


def test_a_crash_is_told(session: Session, tmp_path: Path) -> None:
    domain = define(session, "crasher")
    to_running(domain)
    domain.handle.coreDump(str(tmp_path / "core"), libvirt.VIR_DUMP_CRASH)
    assert domain.off_reason.startswith("it crashed")
    failure = domain.failure("run", "Mend it.")
    assert str(failure) == f"cannot run {domain.target}: {domain.off_reason}. Mend it."


def test_a_domain_that_vanished_is_off(session: Session) -> None:
    domain = define(session, "vanishing")
    to_running(domain)
    domain.handle.undefine()
    domain.handle.destroy()
    assert domain.state is State.SHUTOFF
    assert domain.off_reason == "it is gone, removed from outside"
    domain.stop(1)


def test_undefine_takes_saved_state_and_snapshots_along(session: Session) -> None:
    domain = define(session, "saved")
    to_running(domain)
    domain.handle.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
    domain.handle.managedSave()
    domain.undefine()
    assert Domain.find(session, "saved") is None


def test_find_by_name_and_uuid(session: Session) -> None:
    made = define(session, "a&amp;b &lt;ü&gt;")
    by_name, by_uuid = Domain.find(session, "a&b <ü>"), Domain.find_by_uuid(session, made.uuid)
    assert by_name is not None and by_uuid is not None
    assert by_name.uuid == by_uuid.uuid == made.uuid
    assert Domain.find(session, "nobody") is None
    assert Domain.find_by_uuid(session, str(uuid.uuid4())) is None


def test_a_taken_name_is_left_alone(session: Session) -> None:
    first = define(session, "taken", extra="<disk type='file'><source file='/x'/><target dev='hda'/></disk>")
    with pytest.raises(Conflict, match=f"another domain .UUID {first.uuid}. has this name") as caught:
        define(session, "taken")
    assert not caught.value.retryable
    found = Domain.find(session, "taken")
    assert found is not None and found.uuid == first.uuid and found.facts().disks[0].path == "/x"


def test_our_own_half_made_domain_is_brought_up_to_date(session: Session) -> None:
    uid = str(uuid.uuid4())
    Domain.define(session, domain_xml("own", uid=uid), "own", uid)
    domain = Domain.define(session, domain_xml("own", uid=uid, mac="52:54:00:00:00:99"), "own", uid)
    assert [card.mac for card in domain.facts().interfaces] == ["52:54:00:00:00:99"]
    assert [d.name() for d in session.connection.listAllDomains()].count("own") == 1


def test_broken_xml_is_the_templates_fault(session: Session) -> None:
    with pytest.raises(InvalidTemplate, match="cannot define domain 'bad' on test:///default") as caught:
        Domain.define(session, "<domain type='test'><name>bad", "bad", str(uuid.uuid4()))
    assert not caught.value.retryable


def test_facts(session: Session) -> None:
    domain = define(session, "facts")
    assert domain.facts().domain_type == "test"
    assert domain.memory_kib == 1024
    assert domain.active is False
    to_running(domain)
    assert domain.active is True
    assert domain.facts().interfaces[0].host_device.startswith("testnet")
