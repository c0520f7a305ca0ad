"""Sizes, numbers and booleans as blueprints write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.units import (
    human_size,
    parse_bool,
    parse_int,
    parse_size,
    to_kib,
    to_mib_rounded_up,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2 GiB", 2 * 1024**3),
        ("512MiB", 512 * 1024**2),
        ("1.5 GB", 1_500_000_000),
        (" 1 TiB ", 1024**4),
        ("1TB", 10**12),
        ("3 K", 3072),
        ("3k", 3072),
        ("3 kB", 3000),
        ("4M", 4 * 1024**2),
        ("2g", 2 * 1024**3),
        ("1 T", 1024**4),
        ("512 B", 512),
        ("7 bytes", 7),
        ("1.3 KiB", 1332),
        ("0.5 KB", 500),
    ],
)
def test_sizes_have_units(text, size):
    assert parse_size(text, "params.memory") == size


@pytest.mark.parametrize("value", [512, 1.5, "512", "1.5", True])
def test_a_bare_number_must_say_its_unit(value):
    with pytest.raises(InvalidSpec, match=r"params\.memory: say the unit, as in '512 MiB'"):
        parse_size(value, "params.memory")


@pytest.mark.parametrize("value", ["2 GiBit", "-1 GiB", "1e3 MiB", "GiB", "1,5 GiB", "2 iB", "2 Kbytes", "2 PiB", "²K"])
def test_wrong_units_name_the_right_ones(value):
    with pytest.raises(InvalidSpec, match="the units are KiB, MiB, GiB, TiB"):
        parse_size(value, "f")


def test_sizes_beyond_libvirts_counters_are_refused():
    assert parse_size(f"{2**63 - 1} B", "f") == 2**63 - 1
    with pytest.raises(InvalidSpec, match="over 8 EiB"):
        parse_size(f"{2**63} B", "f")


@pytest.mark.parametrize("value", [True, 1, "true", "YES", "On", " 1 "])
def test_true(value):
    assert parse_bool(value, "f") is True


@pytest.mark.parametrize("value", [False, 0, "false", "No", "OFF", "0"])
def test_false(value):
    assert parse_bool(value, "f") is False


@pytest.mark.parametrize("value", ["", "maybe", 2, None, 1.0, [], "tru e"])
def test_not_a_boolean(value):
    with pytest.raises(InvalidSpec, match="cannot read f: must be true or false"):
        parse_bool(value, "f")


@pytest.mark.parametrize(("value", "number"), [(7, 7), ("1024", 1024), (" -3 ", -3), (2.0, 2), ("+5", 5)])
def test_whole_numbers(value, number):
    assert parse_int(value, "f") == number


@pytest.mark.parametrize("value", [True, "", "1.5", 1.5, "0x10", "1_000", "٣", None, "9" * 100])
def test_not_a_whole_number(value):
    with pytest.raises(InvalidSpec, match="must be a whole number"):
        parse_int(value, "f")


def test_conversions_round_up():
    assert (to_kib(1), to_kib(1024), to_kib(1025)) == (1, 1, 2)
    assert (to_mib_rounded_up(0), to_mib_rounded_up(1), to_mib_rounded_up(2 * 1024**2)) == (0, 1, 2)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (2 * 1024**3, "2 GiB"), (1536 * 1024**2, "1.5 GiB"), (5 * 1024**5, "5120 TiB")],
)
def test_sizes_for_people(size, text):
    assert human_size(size) == text


@settings(max_examples=300)
@given(st.integers(0, 2**50))
def test_a_size_shown_exactly_reads_back(size):
    assert abs(parse_size(human_size(size), "f") - size) <= max(1, size * 0.06)
    assert parse_size(f"{size}B", "f") == size
