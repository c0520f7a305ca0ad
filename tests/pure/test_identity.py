"""Derived names: stable, distinct, within the limits of those who take them."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudify_libvirt.core.identity import (
    Identity,
    assign_indexes,
    mac_address,
    normalise_mac,
    scoped_name,
)

ONE = Identity("dep", "vm", 0, "vm_abc")


def test_known_values() -> None:
    """Written down once: another value here renames every machine that exists."""
    assert ONE.uuid("domain") == "bcc9ca29-07f8-54e9-95c4-ac2814f00f60"
    assert ONE.mac(0) == "52:54:00:61:ae:bb"
    assert ONE.bridge() == "cfy17cdd5d009"


def test_the_engines_random_id_does_not_matter() -> None:
    again = Identity("dep", "vm", 0, "vm_xyz")
    assert (again.uuid("domain"), again.mac(1), again.bridge()) == (ONE.uuid("domain"), ONE.mac(1), ONE.bridge())


def test_everything_else_does() -> None:
    identities = [Identity(d, n, i, "x") for d in ("dep", "dep2") for n in ("vm", "vm2") for i in (0, 1, 11)]
    uuids = {identity.uuid(noun) for identity in identities for noun in ("domain", "network")}
    macs = {identity.mac(card, attempt) for identity in identities for card in (0, 1) for attempt in (0, 1)}
    assert (len(uuids), len(macs)) == (24, 48)
    assert len({identity.bridge(attempt) for identity in identities for attempt in (0, 1)}) == 24


@given(st.text(), st.text(), st.integers(0, 9999), st.integers(0, 15))
def test_forms(deployment: str, node: str, index: int, card: int) -> None:
    identity = Identity(deployment, node, index, "x")
    assert uuid.UUID(identity.uuid("domain")).version == 5
    assert re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", identity.mac(card))
    assert re.fullmatch("[a-z][a-z0-9]+", identity.bridge()) and len(identity.bridge()) <= 15


def test_the_scripts_mac_is_the_plugins() -> None:
    assert mac_address("dep", "vm/0", 1, 2) == ONE.mac(1, 2)


@pytest.mark.parametrize("mac", ["52:54:00:AA:bb:01", " 52-54-00-aa-BB-01\n", "52:54:00:aa:bb:01"])
def test_macs_in_one_form(mac: str) -> None:
    assert normalise_mac(mac) == "52:54:00:aa:bb:01"


@pytest.mark.parametrize("name", ["vm-1", "a.b_c+d", "ÄÖ-1"])
def test_safe_names_stay(name: str) -> None:
    assert scoped_name(name, "root.qcow2") == f"{name}-root.qcow2"


def test_unsafe_names_stay_apart() -> None:
    names = ["a/b", "a b", "a&b", "a_b", "../b", "<b>"]
    files = [scoped_name(name, "seed.iso") for name in names]
    assert len(set(files)) == len(names)
    assert not any(set(file) & set("/ &<>") for file in files)


def test_indexes_fill_the_gaps_in_order() -> None:
    assert assign_indexes({}, ["c", "a", "b"]) == {"a": 0, "b": 1, "c": 2}
    assert assign_indexes({"b": 0, "x": 2}, ["a", "b", "c", "d"]) == {"b": 0, "x": 2, "a": 1, "c": 3, "d": 4}


@given(st.lists(st.text(min_size=1), unique=True, max_size=30), st.data())
def test_indexes_are_distinct_and_kept(instances: list[str], data: st.DataObject) -> None:
    """Whoever computes it, and however often, it comes out the same."""
    known = data.draw(st.lists(st.sampled_from(instances), unique=True)) if instances else []
    numbers = data.draw(st.lists(st.integers(0, 60), min_size=len(known), max_size=len(known), unique=True))
    recorded = dict(zip(known, numbers, strict=True))
    found = assign_indexes(recorded, instances)
    assert set(found) == set(instances) and len(set(found.values())) == len(found)
    assert {name: found[name] for name in recorded} == recorded
    assert assign_indexes(recorded, list(reversed(instances))) == found
    assert assign_indexes(found, instances) == found
