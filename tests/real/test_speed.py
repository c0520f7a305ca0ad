"""Cheap checks of speed, by ratios and with room for a busy machine; the figures themselves come from `make bench`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.boot import Leases, latencies, overlays, served
from bench.figures import median
from tests.real.conftest import BLUEPRINTS, Cfy, Host, Result, public_key

MACHINES = 4
STARTED = re.compile(r"started domain '")
KNOWN = re.compile(r"has address \S+ after ([\d.]+) s")


def install(cfy: Cfy, image: object, key: Path, machines: int) -> Result:
    more = {"memory": "128 MiB", "disk": "256 MiB", "ssh_user": "root", "ssh_public_key": public_key(key)}
    return cfy.install(BLUEPRINTS / "cluster.yaml", "cluster", image=str(image), machines=machines, **more)


def test_many_machines_boot_at_once(cfy: Cfy, clean_host: Host, tiny: Path, key: Path) -> None:
    """One worker thread, four machines, one download: others are started before the first one's address is known.

    The time that each machine took is counted from its own start; one after the other, their sum would be
    the time of the install. Each address is reported soon after its lease is written: the promise is 200 ms
    on a quiet machine.
    """
    with served(tiny.parent) as (url, sent), Leases() as leases:
        result = install(cfy, f"{url}/{tiny.name}", key, MACHINES)
    cfy.uninstall("cluster")
    assert sent == [f"/{tiny.name}"]
    boots = [float(seconds) for seconds in KNOWN.findall(result.output)]
    assert len(boots) == MACHINES
    starts = [match.start() for match in STARTED.finditer(result.output)]
    first_known = KNOWN.search(result.output)
    assert first_known is not None and len(starts) == MACHINES
    assert sum(start < first_known.start() for start in starts) > 1
    assert max(boots) < 0.75 * sum(boots), "each waited for its own boot only"
    waits = latencies(result.output, leases.written)
    # Who looks for the leases may come later than who reports them, where both wait for a processor.
    assert len(waits) == MACHINES and median(waits) > -1, "nothing is reported before it is there"
    assert min(waits) < 0.5 and median(waits) < 10


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return


def test_an_overlay_is_quick(clean_host: Host, tiny: Path, own_cache: None) -> None:
    assert min(overlays(tiny, 7)) < 0.1
