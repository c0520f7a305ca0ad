"""Every subcommand as somebody new types it: one clear error, the right exit code, and JSON that is JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cloudify_libvirt.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
FAILED, UNREACHABLE, USAGE = 1, 2, 64
AWAY = "qemu+unix:///system?socket=/nowhere/sock"
NO_TLS = "nonsense://host/system"
NO_URI = "not a uri"
TEST = "test:///default"


def commands(group: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(group, click.Group):
        yield path
        return
    for name, command in group.commands.items():
        yield from commands(command, (*path, name))


def command_of(path: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


EVERY = sorted(commands())
GROUPS = [(), *sorted({path[:-1] for path in EVERY if len(path) > 1})]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, a cache and a ledger of its own."""
    for name in ("HOME", "CFY_WORKDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "CLOUDIFY_LIBVIRT_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "file.raw").write_bytes(b"x" * 512)
    monkeypatch.chdir(tmp_path)


def run(*words: object) -> Result:
    """Run a command; what is raised is a traceback to a user."""
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False, prog_name="cfy-libvirt")
    assert "Traceback" not in done.output
    return done


def refused(*words: object, code: int = FAILED) -> str:
    """Assert one error in one line, and nothing for a program to take for an answer; return it."""
    done = run(*words)
    assert done.exit_code == code, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and done.stderr.strip().endswith(errors[0])
    return errors[0]


@pytest.mark.parametrize("path", [*GROUPS, *EVERY], ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    for option in ("--help", "-h") if not path else ("--help",):
        done = run(*path, option)
        assert done.exit_code == 0 and done.stdout.startswith("Usage: cfy-libvirt")


@pytest.mark.parametrize("path", [*GROUPS, *EVERY], ids=" ".join)
def test_an_unknown_option(path: tuple[str, ...]) -> None:
    assert "No such option" in refused(*path, "--nonsense", code=USAGE)


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_no_argument(path: tuple[str, ...]) -> None:
    required = [one for one in command_of(path).params if one.required]
    if any(isinstance(one, click.Argument) for one in required):
        assert "Missing argument" in refused(*path, code=USAGE)


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_a_group_alone_tells_its_commands(path: tuple[str, ...]) -> None:
    done = run(*path)
    group = command_of(path)
    assert isinstance(group, click.Group) and done.exit_code == USAGE
    assert all(f"  {name} " in done.output for name in group.commands)
    assert "No such command 'nonsense'" in refused(*path, "nonsense", code=USAGE)


DIRECTORY = ("--dir", "backups")
# Every command that talks to a hypervisor, with arguments that would be right.
TALKING: list[tuple[str, ...]] = [
    ("backup", "create", "nobody", *DIRECTORY),
    ("backup", "list", "nobody", *DIRECTORY),
    ("backup", "list", "nobody", "--pool", "nopool"),
    ("backup", "show", "nobody", *DIRECTORY),
    ("backup", "verify", "nobody", *DIRECTORY),
    ("backup", "restore", "nobody", *DIRECTORY),
    ("backup", "restore", "nobody", *DIRECTORY, "--as", "new"),
    ("backup", "delete", "nobody", *DIRECTORY, "--point", "p", "--yes"),
    ("backup", "prune", "nobody", *DIRECTORY, "--keep-last", "1", "--yes"),
    ("cache", "list"),
    ("cache", "prune", "--pools"),
    ("orphans",),
    ("orphans", "--remove", "--yes"),
    ("snapshot", "create", "nobody", "s"),
    ("snapshot", "list", "nobody"),
    ("snapshot", "revert", "nobody", "s"),
    ("snapshot", "delete", "nobody", "s"),
    ("volume", "download", "nopool", "v", "out"),
    ("volume", "upload", "file.raw", "nopool", "v"),
]
SILENT = {("doctor",), ("drift",), ("plan",), ("version",), ("local-setup",), ("cache", "verify"), ("image", "list"),
          ("image", "show"), ("image", "pull")}  # fmt: skip


def test_none_is_forgotten() -> None:
    with_uri = {path for path in EVERY if any(option.name in ("uri", "uris") for option in command_of(path).params)}
    assert with_uri - {("doctor",)} == {words[: 1 if words[0] == "orphans" else 2] for words in TALKING}
    assert set(EVERY) - with_uri | {("doctor",)} == SILENT


@pytest.mark.parametrize("uri", [AWAY, NO_TLS, NO_URI])
@pytest.mark.parametrize("words", TALKING, ids=" ".join)
def test_no_libvirt_there(words: tuple[str, ...], uri: str) -> None:
    error = refused(*words, "--uri", uri)
    assert error.startswith(f"Error: cannot connect to hypervisor {uri}: ")
    assert "systemctl start libvirtd" in error if uri == AWAY else "qemu+ssh://user@host/system" in error


@pytest.mark.parametrize("words", [one for one in TALKING if one[0] not in ("cache", "orphans")], ids=" ".join)
def test_names_of_nothing(words: tuple[str, ...]) -> None:
    if words[:2] == ("backup", "list") and "--dir" in words:
        done = run(*words, "--uri", TEST)
        assert done.exit_code == 0 and done.stderr == "no backups of domain 'nobody' there\n" and not done.stdout
        return
    error = refused(*words, "--uri", TEST)
    assert error.startswith("Error: cannot find ")
    assert any(f"{noun} 'no{name}'" in error for noun, name in (("domain", "body"), ("pool", "pool"))) or (
        "backups/local/nobody: there is none at all" in error
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("drift", "nobody"), "it is not installed there. The names are those of: cfy blueprints list."),
        (("plan", "none.yaml"), "there is no such file. Give the path"),
        (("plan", "file.raw"), "cannot read blueprint file.raw"),
        (("image", "show", "debain-12"), "Names: debian-12"),
        (("image", "pull", "debain-12"), "Names: debian-12"),
        (("image", "pull", "/no/file"), "there is no such file"),
        (("snapshot", "revert", "test", "s", "--yes", "--uri", TEST), "There is: none."),
        (("snapshot", "delete", "test", "s", "--yes", "--uri", TEST), "There is: none."),
        (("volume", "download", "default-pool", "v", "out", "--uri", TEST), "Pool 'default-pool' has: no volumes."),
        (("backup", "list", "../x", *DIRECTORY, "--uri", TEST), "would leave the directory of the backups"),
    ],
)
def test_other_names_of_nothing(words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("backup", "list", "vm"), "--dir DIRECTORY or --pool POOL"),
        (("backup", "list", "vm", *DIRECTORY, "--pool", "p"), "--dir DIRECTORY or --pool POOL"),
        (("backup", "prune", "vm", *DIRECTORY), "as in --keep-last 7"),
        (("backup", "delete", "vm", *DIRECTORY), "Missing option '--point'"),
        (("backup", "delete", "vm", *DIRECTORY, "--point", "p", "--json", "--uri", TEST), "--json here needs --yes"),
        (("cache", "prune", "--older-than", "x"), "is not a number with m, h, d or w"),
        (("cache", "prune", "--pools"), "--pools and --uri go together"),
        (("orphans", "--remove", "--json"), "--remove with --json needs --yes"),
        (("volume", "upload", "none.raw", "p", "v"), "does not exist"),
        (("local-setup", "--home", "file.raw"), "is a file"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words, code=USAGE)


@pytest.mark.parametrize("uri", [AWAY, NO_TLS, NO_URI])
def test_the_doctor_looks_all_the_same(uri: str) -> None:
    assert run("doctor", uri).exit_code == UNREACHABLE
    done = run("doctor", uri, "--json")
    assert done.exit_code == UNREACHABLE and json.loads(done.stdout)[0]["uri"] == uri


@pytest.mark.parametrize("words", [
    ("backup", "list", "test", *DIRECTORY, "--uri", TEST),
    ("cache", "list"),
    ("cache", "list", "--uri", TEST),
    ("cache", "prune"),
    ("cache", "prune", "--uri", TEST, "--pools"),
    ("cache", "verify"),
    ("doctor", TEST),
    ("image", "list"),
    ("orphans", "--uri", TEST),
    ("orphans", "--uri", TEST, "--remove", "--yes"),
    ("snapshot", "list", "test", "--uri", TEST),
], ids=" ".join)  # fmt: skip
def test_json_of_nothing(words: tuple[str, ...]) -> None:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    json.loads(done.stdout)


@pytest.mark.parametrize("uri", [AWAY, TEST])
def test_orphans_of_a_host_that_is_away_are_not_nothing(uri: str) -> None:
    done = run("orphans", "--uri", uri)
    assert ("nothing" in done.output) == (uri == TEST)


def test_the_page_names_every_command() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for path in EVERY:
        assert any(f"`{path[0]}" in row and (len(path) == 1 or path[1] in row) for row in rows), path
