"""Memory that grows in DIMMs: what fits, what can go, and what a stored definition becomes."""

from __future__ import annotations

import pytest
from lxml import etree

from cloudify_libvirt.core.drift.compare import CONFIG, LIVE, Subject, compare
from cloudify_libvirt.core.update import dimms, sizes
from cloudify_libvirt.core.update.sizes import Size

MIB = 1024
DIMM = "<memory model='dimm'><target><size unit='KiB'>{}</size><node>0</node></target><alias name='{}'/></memory>"
PLAIN = "<domain><memory unit='KiB'>{0}</memory><currentMemory>{1}</currentMemory><vcpu>1</vcpu><devices/></domain>"


def document(memory: int, *brought: int, maximum: int = 1024, slots: int = 3, current: int = 0, name: str = "") -> str:
    """A definition, in MiB, as libvirt writes it: the amount has the DIMMs in it."""
    total = memory + sum(brought)
    alias = name or dimms.ALIAS
    devices = "".join(DIMM.format(size * MIB, f"{alias}{number}") for number, size in enumerate(brought))
    return (
        f"<domain><maxMemory slots='{slots}' unit='KiB'>{(maximum + 128) * MIB}</maxMemory>"
        f"<memory unit='KiB'>{total * MIB}</memory><currentMemory unit='KiB'>{(current or total) * MIB}</currentMemory>"
        f"<vcpu>1</vcpu><cpu><numa><cell id='0' cpus='0' memory='{memory * MIB}' unit='KiB'/></numa></cpu>"
        f"<devices>{devices}</devices></domain>"
    )


def room(*arguments: int, **more: int) -> dimms.Room:
    found = dimms.Room.read(document(*arguments, **more))
    assert found is not None
    return found


def fields(declared: str, found: str, where: str = CONFIG, *, slots: bool = True) -> list[str]:
    return [one.field for one in compare(Subject("domain", "it", dimms=slots), declared, found, where)]


@pytest.mark.parametrize(
    ("there", "wanted", "why"),
    [
        (room(256), 256, ""),
        (room(256), 100, ""),
        (room(256), 384, ""),
        (room(256), 1024, ""),
        (room(256, 128, 128), 640, ""),
        (room(256), 300, "a guest that runs takes blocks of 128 MiB: it can have 256 MiB or 384 MiB"),
        (room(256, 128), 520, "a guest that runs takes blocks of 128 MiB: it can have 512 MiB or 640 MiB"),
        (room(256), 1152, "the running guest can have 1024 MiB at most"),
        (room(256, 128, 128, slots=2), 640, "all of its memory_slots (2) are in use"),
    ],
)
def test_what_a_running_guest_can_come_to(there: dimms.Room, wanted: int, why: str) -> None:
    assert there.why_not(wanted * MIB) == why


@pytest.mark.parametrize(
    ("there", "wanted", "sizes_mib"),
    [
        (room(256), 128, []),
        (room(256, 128), 256, [128]),
        (room(256, 128), 300, []),
        (room(256, 128, 512), 384, [512]),
        (room(256, 128, 512), 256, [512, 128]),
        (room(256, 128, 512), 100, [512, 128]),
        (room(256, 128, 512), 600, [128]),
    ],
)
def test_the_largest_that_can_go_goes_first(there: dimms.Room, wanted: int, sizes_mib: list[int]) -> None:
    assert [one.size_kib // MIB for one in there.spare(wanted * MIB)] == sizes_mib


def test_a_dimm_of_others_stays_and_takes_its_slot() -> None:
    there = dimms.Room.read(document(256, 128, slots=1, name="ua-theirs"))
    assert there is not None and there.spare(256 * MIB) == [] and "all of its" in there.why_not(512 * MIB)
    assert fields(document(256), document(256, 128, name="ua-theirs"), LIVE) == ["memory", "memory[0]"]


def test_names_are_free_ones() -> None:
    assert room(256).next_name() == f"{dimms.ALIAS}0"
    assert room(256, 128, 128).next_name() == f"{dimms.ALIAS}2"
    there = dimms.Room.read(document(256, 128, 128).replace(f"{dimms.ALIAS}0", "ua-other"))
    assert there is not None and there.next_name() == f"{dimms.ALIAS}0"


def test_a_guest_that_started_without_slots_has_no_room() -> None:
    assert dimms.Room.read(PLAIN.format(256, 256)) is None


@pytest.mark.parametrize(
    ("declared", "found", "where", "expected"),
    [
        (document(512), document(512), CONFIG, []),
        # What brought it to what is declared is nobody's affair.
        (document(512), document(256, 256), LIVE, []),
        (document(512), document(256, 128, 256, current=512), LIVE, []),
        (document(512), document(256), LIVE, ["memory"]),
        (document(512), document(256, 128), LIVE, ["memory"]),
        (document(256), document(256, 768), LIVE, ["memory"]),
        (document(512), document(512, slots=2), CONFIG, ["memory_slots"]),
        (document(512), document(512, maximum=768), LIVE, ["max_memory"]),
        (document(512), PLAIN.format(512 * MIB, 512 * MIB), LIVE, ["memory_slots", "max_memory"]),
    ],
)
def test_the_amount_is_compared_not_what_it_is_made_up_of(
    declared: str, found: str, where: str, expected: list[str]
) -> None:
    assert fields(declared, found, where) == expected


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        (document(512), document(256)),
        (document(256), document(512, current=300)),
        (document(512), document(512, slots=2, maximum=700)),
        (document(512), PLAIN.format(512 * MIB, 300 * MIB)),
        (document(512), document(256, 256)),
        (PLAIN.format(512 * MIB, 512 * MIB), document(256, 128)),
    ],
)
def test_a_stored_definition_has_all_of_it_from_the_start(declared: str, found: str) -> None:
    wanted, root = etree.fromstring(declared), etree.fromstring(found)
    assert dimms.settle(wanted, root, with_dimms=wanted.find("maxMemory") is not None)
    text = etree.tostring(root, encoding="unicode")
    assert fields(declared, text, slots="maxMemory" in declared) == []
    cells = [int(cell.get("memory")) for cell in root.iter("cell")]
    assert cells == ([512 * MIB] if "512" in declared and "maxMemory" in declared else cells)
    assert (len(cells) == 1) is ("maxMemory" in declared) and root.find("devices/memory") is None
    assert root.findtext("memory") == etree.fromstring(declared).findtext("memory")
    assert not dimms.settle(wanted, root, with_dimms=wanted.find("maxMemory") is not None), "again: nothing to do"


def test_what_libvirt_says_of_the_cell_and_what_nobody_declares_stays() -> None:
    root = etree.fromstring(document(256).replace("<cpu>", "<cpu mode='maximum'><feature name='aes'/>"))
    assert dimms.settle(etree.fromstring(document(512).replace(" cpus='0'", "")), root, with_dimms=True)
    assert root.find("cpu/numa/cell").get("cpus") == "0" and root.find("cpu/feature") is not None
    his = etree.fromstring(document(256))
    assert not dimms.settle(etree.fromstring(document(512)), his, with_dimms=False), (
        "of a template with slots of its own"
    )
    foreign = etree.fromstring(document(256, slots=7))
    assert not dimms.settle(etree.fromstring(PLAIN.format(256 * MIB, 256 * MIB)), foreign, with_dimms=False)
    assert foreign.find("maxMemory") is not None


def test_sizes_with_dimms() -> None:
    text = document(256, 128, current=300)
    assert sizes.read(text) == Size(300 * MIB, 384 * MIB, 1, 1)
    assert sizes.read(text, with_dimms=True) == Size(300 * MIB, 1024 * MIB, 1, 1, dimms=True)
    wish = Size(memory_kib=400 * MIB, dimms=True)
    assert "384 MiB or 512 MiB" in sizes.at_start(wish, text)["memory"]
    assert "memory" not in sizes.at_start(Size(memory_kib=512 * MIB, dimms=True), text)
    assert "memory" in sizes.at_start(Size(memory_kib=512 * MIB), text)
