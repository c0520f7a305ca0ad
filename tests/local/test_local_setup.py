"""cfy in local mode after ``cfy-libvirt local-setup``: the real commands, with no network."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from cloudify_libvirt import __version__
from cloudify_libvirt.cli import local_setup

ROOT = Path(__file__).resolve().parents[2]
CFY = Path(sys.executable).parent / "cfy"
TYPES_IMPORTS = (
    "cloudify/types/types.yaml",
    "http://www.getcloudify.org/spec/cloudify/4.6/types.yaml",
    "https://getcloudify.org/spec/cloudify/5.0.5/types.yaml",
    "http://cloudify.co/spec/cloudify/5.1.0/types.yaml",
    "https://cloudify.co/spec/cloudify/6.3.1/types.yaml",
    "https://raw.githubusercontent.com/cloudify-cosmo/cloudify-manager/5.0.5/"
    "resources/rest-service/cloudify/types/types.yaml",
)
PLUGIN_IMPORTS = (
    "plugin:cloudify-libvirt-plugin",
    "plugin:cloudify-libvirt-plugin?version=0.9.5",
    "plugin:cloudify-libvirt-plugin?version= >=0.5,<0.9",
    "https://raw.githubusercontent.com/cloudify-incubator/cloudify-libvirt-plugin/0.5.0/plugin.yaml",
    "http://raw.githubusercontent.com/cloudify-cosmo/cloudify-libvirt-plugin/master/plugin.yaml",
    "https://github.com/cloudify-incubator/cloudify-libvirt-plugin/releases/download/latest/plugin.yaml",
    "http://www.getcloudify.org/spec/libvirt-plugin/0.4.1/plugin.yaml",
)
EVERY_TYPE = {
    "net": {"type": "cloudify.libvirt.network"},
    "pool": {"type": "cloudify.libvirt.pool"},
    "volume": {"type": "cloudify.libvirt.volume"},
    "iso": {"type": "cloudify.libvirt.ISO9660"},
    "vm": {
        "type": "cloudify.libvirt.domain",
        "relationships": [{"type": "cloudify.libvirt.relationships.connected_to", "target": "net"}],
    },
}
WORKFLOWS = ("stop", "start", "restart", "pull", "heal", "check_status", "check_drift", "rollback", "reinstall")
USERS_CONFIG = """\
# my own settings
colors: true   # I like colours

import_resolver:
  parameters:
    rules:
      - {'http://mine.example/spec': 'file:///srv/spec'}

# what local mode hands to every blueprint
local_provider_context:
  site: berlin
"""


class Home:
    """A home directory of its own, in which every attempt to reach the network fails."""

    def __init__(self, path, package=ROOT):
        self.path = path
        self.config = path / ".cloudify" / "config.yaml"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CFY_", "CLOUDIFY_"))}
        nowhere = "http://127.0.0.1:9"
        self.environment = {
            **kept,
            "HOME": str(path),
            "PYTHONPATH": str(package),
            "http_proxy": nowhere,
            "https_proxy": nowhere,
        }

    def run(self, *command):
        return subprocess.run(
            [str(part) for part in command],
            env=self.environment,
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def cfy_libvirt(self, *arguments):
        return self.run(sys.executable, "-c", "from cloudify_libvirt.cli.main import main; main()", *arguments)

    def cfy(self, *arguments):
        run = self.run(CFY, *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def blueprint(self, *imports, version="1_3", nodes=EVERY_TYPE, **sections):
        path = self.path / "blueprints" / "blueprint.yaml"
        path.parent.mkdir(exist_ok=True)
        document = {
            "tosca_definitions_version": f"cloudify_dsl_{version}",
            "imports": list(imports),
            "node_templates": nodes,
            **sections,
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    def write_config(self, text):
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)

    def files(self):
        return {path: path.read_bytes() for path in self.path.rglob("*") if path.is_file() and path.suffix != ".log"}


@pytest.fixture
def fresh(tmp_path):
    return Home(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    run = home.cfy_libvirt("local-setup")
    assert run.returncode == 0, run.stdout + run.stderr
    return home


@pytest.mark.parametrize("version", ["1_3", "1_4", "1_5"])
@pytest.mark.parametrize("types", TYPES_IMPORTS)
def test_base_types_are_found_in_every_form(prepared, types, version):
    path = prepared.blueprint(types, PLUGIN_IMPORTS[0], version=version)
    assert "validated successfully" in prepared.cfy("blueprints", "validate", path)


@pytest.mark.parametrize("plugin", PLUGIN_IMPORTS)
def test_the_plugin_is_found_in_every_form(prepared, plugin):
    path = prepared.blueprint(TYPES_IMPORTS[1], plugin)
    assert "validated successfully" in prepared.cfy("blueprints", "validate", path)


def test_base_types_may_be_imported_twice_in_different_forms(prepared):
    other = prepared.path / "blueprints" / "other.yaml"
    path = prepared.blueprint(TYPES_IMPORTS[0], "other.yaml", PLUGIN_IMPORTS[0])
    other.write_text(f"imports:\n  - {TYPES_IMPORTS[1]}\n  - {TYPES_IMPORTS[4]}\n")
    assert "validated successfully" in prepared.cfy("blueprints", "validate", path)


def test_a_file_of_the_blueprints_own_comes_before_the_shipped_types(prepared):
    path = prepared.blueprint("cloudify/types/types.yaml", nodes={"mine": {"type": "my.own.Type"}})
    own = path.parent / "cloudify" / "types" / "types.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "node_types:\n  my.own.Type: {}\n"
        "plugins:\n  default_workflows: {executor: central_deployment_agent, install: false}\n"
    )
    try:
        assert "validated successfully" in prepared.cfy("blueprints", "validate", path)
    finally:
        shutil.rmtree(path.parent / "cloudify")


def test_every_operation_of_the_plugin_is_found_at_init(prepared):
    path = prepared.blueprint(TYPES_IMPORTS[0], PLUGIN_IMPORTS[0])
    assert "Initialized" in prepared.cfy("init", path, "-b", "every")
    instances = prepared.cfy("node-instances", "-b", "every")
    assert all(f'"{name}"' in instances for name in EVERY_TYPE)


def test_a_host_without_agent_config_installs_and_runs_the_workflows(prepared):
    nodes = {"host": {"type": "cloudify.nodes.Compute", "properties": {"ip": "10.1.2.3"}}}
    outputs = {"ip": {"value": {"get_property": ["host", "ip"]}}}
    path = prepared.blueprint(TYPES_IMPORTS[0], nodes=nodes, outputs=outputs)
    assert "'install' workflow execution succeeded" in prepared.cfy("install", path, "-b", "host")
    assert "10.1.2.3" in prepared.cfy("deployments", "outputs", "-b", "host")
    for workflow in WORKFLOWS:
        said = prepared.cfy("executions", "start", workflow, "-b", "host")
        assert f"'{workflow}' workflow execution succeeded" in said
    operation = ("-p", "operation=cloudify.interfaces.lifecycle.start", "-p", "run_by_dependency_order=true")
    said = prepared.cfy("executions", "start", "execute_operation", "-b", "host", *operation)
    assert "workflow execution succeeded" in said
    assert "'uninstall' workflow execution succeeded" in prepared.cfy("uninstall", "-b", "host")


def test_a_host_that_asks_for_an_agent_fails_with_the_remedy_and_uninstalls(prepared):
    nodes = {"host": {"type": "cloudify.nodes.Compute", "properties": {"agent_config": {"install_method": "remote"}}}}
    path = prepared.blueprint(TYPES_IMPORTS[0], nodes=nodes)
    run = prepared.run(CFY, "install", path, "-b", "agent")
    assert run.returncode == 1
    assert "Set agent_config: {install_method: none}" in run.stdout
    assert "'uninstall' workflow execution succeeded" in prepared.cfy("uninstall", "-b", "agent")


def test_another_plugin_of_the_catalogue_is_refused_with_the_rule_to_add(prepared):
    run = prepared.run(CFY, "blueprints", "validate", prepared.blueprint(TYPES_IMPORTS[0], "plugin:cloudify-x-plugin"))
    assert run.returncode == 1
    assert "- {'plugin:cloudify-x-plugin': 'file:///path/to/file.yaml'}" in run.stdout + run.stderr


def test_the_second_run_changes_nothing(fresh):
    first = fresh.cfy_libvirt("local-setup")
    before = fresh.files()
    second = fresh.cfy_libvirt("local-setup")
    assert first.returncode == second.returncode == 0
    assert fresh.files() == before
    assert "nothing to change" in second.stdout
    assert "active already" in second.stdout
    assert (fresh.path / ".cloudify" / "active.profile").read_text() == "local"


def test_the_users_settings_comments_and_rules_stay(fresh):
    fresh.write_config(USERS_CONFIG)
    fresh.config.chmod(0o640)
    assert fresh.cfy_libvirt("local-setup").returncode == 0
    text = fresh.config.read_text()
    kept = [line for line in USERS_CONFIG.splitlines() if line.startswith(("#", "colors", "local_", "  site"))]
    assert [line for line in text.splitlines() if line in kept] == kept
    config = yaml.safe_load(text)
    assert config["local_provider_context"] == {"site": "berlin"}
    assert config["import_resolver"] == {
        "implementation": "cloudify_libvirt.local_resolver:LocalResolver",
        "parameters": {"fallback": False, "rules": [{"http://mine.example/spec": "file:///srv/spec"}]},
    }
    assert fresh.config.with_name("config.yaml.bak1").read_text() == USERS_CONFIG
    assert fresh.config.stat().st_mode & 0o777 == 0o640
    fresh.cfy("init", fresh.blueprint(TYPES_IMPORTS[0], nodes={"one": {"type": "cloudify.nodes.Root"}}))
    assert fresh.config.read_text() == text, "cfy wrote its own file over it"


def test_a_rule_of_the_users_own_comes_first(fresh):
    mine = fresh.path / "mine.yaml"
    mine.write_text("node_types:\n  my.Type: {derived_from: cloudify.nodes.Root}\n")
    rules = [{"plugin:cloudify-libvirt-plugin": f"file:{mine}"}]
    fresh.write_config(yaml.safe_dump({"import_resolver": {"parameters": {"rules": rules}}}))
    assert fresh.cfy_libvirt("local-setup").returncode == 0
    path = fresh.blueprint(TYPES_IMPORTS[0], PLUGIN_IMPORTS[0], nodes={"one": {"type": "my.Type"}})
    assert "validated successfully" in fresh.cfy("blueprints", "validate", path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("logging: [", "not valid YAML"),
        ("- a list\n", "not a mapping"),
        ("import_resolver:\n  implementation: their.module:Resolver\n", "their.module:Resolver"),
        ("import_resolver: [rules]\n", "has another form"),
    ],
)
def test_a_config_that_cannot_be_merged_is_left_alone(fresh, text, reason):
    fresh.write_config(text)
    run = fresh.cfy_libvirt("local-setup")
    assert run.returncode == 1
    assert str(fresh.config) in run.stderr
    assert reason in run.stderr
    assert "Traceback" not in run.stderr
    assert fresh.files() == {fresh.config: text.encode()}


def test_home_names_the_directory_and_says_how_cfy_finds_it(fresh):
    other = fresh.path / "elsewhere"
    run = fresh.cfy_libvirt("local-setup", "--home", other)
    assert f"export CFY_WORKDIR={other}" in run.stdout
    assert (other / ".cloudify" / "config.yaml").is_file()
    assert not fresh.config.exists()


def test_an_active_manager_profile_is_named_when_it_is_left(fresh):
    fresh.config.parent.mkdir()
    (fresh.config.parent / "active.profile").write_text("manager.example")
    assert "was manager.example" in fresh.cfy_libvirt("local-setup").stdout


def test_version(fresh):
    assert fresh.cfy_libvirt("version").stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "colors: true",
        "# only a comment\n",
        "{colors: true, logging: {}}\n",
        "import_resolver: {parameters: {rules: []}}\nlogging: {}\n",
        "import_resolver:\n  parameters:\n    rules: []\n  # inside\n\n\n# of the next\nlogging: {}\n",
        "logging: {}\nimport_resolver:\n",
        "---\nlogging:\n  loggers: {}\n...\n",
        "a: |\n  import_resolver: text\nimport_resolver:\n  parameters:\n    rules:\n    - {a: b}\n",
        '"import_resolver": {}\r\nlogging: {}\r\n',
    ],
)
def test_editing_sets_the_sections_and_keeps_the_rest(text):
    config = yaml.safe_load(text) or {}
    sections = local_setup.wanted_sections(Path("/home/me/.cloudify/config.yaml"), config)
    result = local_setup.edited(text, config, sections)
    assert yaml.safe_load(result) == {**config, **sections}
    if not text.startswith("{"):
        comments = [line for line in text.splitlines() if line.startswith("#")]
        assert [line for line in result.splitlines() if line.startswith("#")] == comments
    assert local_setup.wanted_sections(Path("/home/me/.cloudify/config.yaml"), yaml.safe_load(result)).items() <= (
        yaml.safe_load(result).items()
    )


def test_an_installed_wheel_finds_its_files(tmp_path):
    source, site, home = tmp_path / "source", tmp_path / "site", Home(tmp_path / "home", tmp_path / "site")
    home.path.mkdir()
    source.mkdir()
    files = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md")
    for path in (*(ROOT / name for name in files), *ROOT.glob("plugin*.yaml")):
        shutil.copy(path, source)
    for name in ("cloudify_libvirt", "templates", "types"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    said = home.cfy_libvirt("local-setup").stdout
    assert f"-> {site}/cloudify_libvirt/types/types.yaml" in said
    assert f"-> {site}/cloudify_libvirt/plugin.yaml" in said
    for version in ("1_3", "1_4", "1_5"):
        path = home.blueprint(TYPES_IMPORTS[0], PLUGIN_IMPORTS[0], version=version)
        assert "validated successfully" in home.cfy("blueprints", "validate", path)
