"""The report of what typed parameters reach: true of schema and goldens, and up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloudify_libvirt.core.document import schema as schemas

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from docs_lib import coverage  # noqa: E402

pytestmark = pytest.mark.skipif(
    not Path(schemas.directory(), "domain.rng").exists(), reason="libvirt's schemas are not installed"
)

# What may not be lost again, in percent.
LEAST = {"domain": 20, "network": 85, "pool": 40, "volume": 20}


@pytest.mark.parametrize("kind", coverage.KINDS)
def test_the_share_does_not_shrink(kind: str) -> None:
    every, got = coverage.both(kind)
    assert got <= every
    assert 100 * len(got) / len(every) >= LEAST[kind]


def test_known_paths_are_in_the_schema_and_reached() -> None:
    every, got = coverage.both("domain")
    tune = ("domain", "devices", "disk", "iotune", "total_bytes_sec")
    assert {tune, (*tune, "text"), ("domain", "@type")} <= got
    assert ("domain", "devices", "disk", "@snapshot") in every - got
    assert ("domain", "devices", "disk", "nonsense") not in every


def test_every_element_of_a_golden_is_in_the_schema() -> None:
    for kind in coverage.KINDS:
        every, _ = coverage.both(kind)
        elements = {path for path in coverage.reached(kind) if path[-1] != "text" and "metadata" not in path}
        assert elements - every == set()


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/schema-coverage", "--check"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
