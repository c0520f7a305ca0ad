"""Section 8: every form in which blueprints import the plugin and the base types, offline, by the real cfy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.local.test_local_setup import EVERY_TYPE, PLUGIN_IMPORTS, TYPES_IMPORTS, Home

ROOT = Path(__file__).resolve().parents[2]
OLD = "https://raw.githubusercontent.com/cloudify-incubator/cloudify-libvirt-plugin"
FORMS = (
    *PLUGIN_IMPORTS,
    f"{OLD}/0.4.1/v2_plugin.yaml",
    f"{OLD}/0.9.5/plugin_1_4.yaml",
    "https://raw.githubusercontent.com/cloudify-cosmo/cloudify-libvirt-plugin/refs/heads/master/plugin.yaml",
    "plugin:cloudify-libvirt-plugin?version= >=0.9,<1.0&distribution=centos",
)
BASES = (
    *TYPES_IMPORTS,
    *(f"http://www.getcloudify.org/spec/cloudify/{version}/types.yaml" for version in ("4.5.5", "5.0.0", "6.4.0.dev1")),
    "https://www.getcloudify.org/spec/cloudify/4.6/types.yaml",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that was empty before local-setup."""
    found = Home(tmp_path_factory.mktemp("home"))
    run = found.cfy_libvirt("local-setup")
    assert run.returncode == 0, run.stdout + run.stderr
    return found


def valid(home: Home, path: Path) -> None:
    assert "validated successfully" in home.cfy("blueprints", "validate", path)


@pytest.mark.parametrize("plugin", FORMS)
def test_the_plugin_by_url_and_by_name(home: Home, plugin: str) -> None:
    valid(home, home.blueprint(TYPES_IMPORTS[1], plugin))


@pytest.mark.parametrize("types", BASES)
def test_the_base_types_of_any_version(home: Home, types: str) -> None:
    valid(home, home.blueprint(types, FORMS[0]))


@pytest.mark.parametrize("version", ["1_3", "1_4", "1_5"])
@pytest.mark.parametrize("file", ["plugin.yaml", "v2_plugin.yaml", "../plugin.yaml", "libvirt/plugin.yaml"])
def test_the_plugin_by_relative_path(home: Home, file: str, version: str) -> None:
    path = home.blueprint("cloudify/types/types.yaml", file, version=version)
    target = path.parent / file
    target.parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / Path(file).name, target)
    try:
        valid(home, path)
    finally:
        target.unlink()


def test_the_plugin_under_a_namespace(home: Home) -> None:
    nodes = {"net": {"type": "cloudify.libvirt.network"}}
    valid(home, home.blueprint("cloudify/types/types.yaml", "virt--plugin:cloudify-libvirt-plugin", nodes=nodes))


def test_an_old_blueprint_initialises_unchanged(home: Home) -> None:
    """Every operation's function is found, not only its definition."""
    path = home.blueprint(BASES[0], f"{OLD}/0.5.0/plugin.yaml", nodes=EVERY_TYPE)
    assert "Initialized" in home.cfy("init", path, "-b", "old")
