"""What ``cfy-libvirt local-setup`` does: cfy's config.yaml and its active profile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cloudify_libvirt import shipped
from cloudify_libvirt.core.errors import CoreError

ACTION = "set up local mode in"
RESOLVER = "cloudify_libvirt.local_resolver:LocalResolver"
# What cfy uses when nothing is configured, and what its documentation names: ours does all that they do.
REPLACEABLE = (
    None,
    RESOLVER,
    "cloudify_cli.config.config:ResolverWithCatalogIdentification",
    "dsl_parser.import_resolver.default_import_resolver:DefaultImportResolver",
)
# cfy itself, of this very environment: another one could not import the resolver or the plugin.
CFY = (sys.executable, "-c", "import sys; from cloudify_cli.main import _cfy; sys.argv[0] = 'cfy'; _cfy()")


def set_up(home: Path) -> Iterator[str]:
    """Prepare ``home/.cloudify``; yields a line for each thing that was done or found done."""
    types, plugin = shipped.types_file(), shipped.plugin_file()
    if types is None or plugin is None:
        missing = "types/types.yaml" if types is None else "plugin.yaml"
        raise CoreError(ACTION, str(home), f"the installed package lacks {missing}", "Install the plugin again.")
    if importlib.util.find_spec("cloudify_cli") is None:
        raise CoreError(
            ACTION,
            str(home),
            f"the environment of {sys.executable} has no cfy",
            "Install it there: pip install 'cloudify-libvirt-plugin[local]'.",
        )
    yield from _configure(home / ".cloudify" / "config.yaml")
    yield from _activate(home)
    yield "Imports that need no network now:"
    yield from (f"  {form}" for form, _ in shipped.BASE_TYPES)
    yield f"    -> {types}"
    yield from (f"  {form}" for form, _ in shipped.PLUGIN)
    yield f"    -> {plugin}"
    yield from (f"  {form}" for form, _ in shipped.UTILITIES)
    yield f"    -> {shipped.utilities_file()} (its workflows)"
    if home != Path(os.environ.get("CFY_WORKDIR") or Path.home()):
        yield f"Tell cfy of this directory: export CFY_WORKDIR={home}"


def _configure(path: Path) -> Iterator[str]:
    with _readable_errors(path):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        config = _parse(path, text)
        sections = wanted_sections(path, config)
        if {**config, **sections} == config:
            yield f"{path}: nothing to change"
            return
        if text:
            yield f"kept the old file as {_back_up(path)}"
        _write(path.resolve(), edited(text, config, sections))
        yield f"{path}: wrote {', '.join(sections)}"


@contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise CoreError(ACTION, str(path), str(error), "Mend that, or name another directory: --home.") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise CoreError(ACTION, str(path), f"not valid YAML: {error}", "Mend the file, or move it away.") from error
    if not isinstance(config, dict):
        raise CoreError(ACTION, str(path), "it is not a mapping of settings", "Mend the file, or move it away.")
    return config


def wanted_sections(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top-level sections that config.yaml must have, with what the user set in them."""
    sections: dict[str, Any] = {}
    if not config:
        sections["colors"] = False
    if "logging" not in config:
        # Without this section cfy takes the file for a stranger's and writes its own over it.
        sections["logging"] = {
            "filename": str(path.parent / "logs" / "cli.log"),
            "loggers": {"cloudify.cli.main": "info", "cloudify.rest_client.http": "info"},
        }
    resolver = config.get("import_resolver") or {}
    parameters = (resolver.get("parameters") or {}) if isinstance(resolver, dict) else None
    if not isinstance(parameters, dict):
        remedy = "It must be a mapping with implementation and parameters; mend it or remove it."
        raise CoreError(ACTION, str(path), "the section import_resolver has another form", remedy)
    if resolver.get("implementation") not in REPLACEABLE:
        found = f"another import resolver is configured: {resolver['implementation']}"
        raise CoreError(ACTION, str(path), found, "Remove import_resolver.implementation if you can do without it.")
    sections["import_resolver"] = {
        **resolver,
        "implementation": RESOLVER,
        "parameters": {"fallback": False, "rules": [], **parameters},
    }
    return sections


def edited(text: str, config: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """Return ``text`` with ``sections`` put in, and every other line as the user wrote it, comments too."""
    result = text
    for key, value in sections.items():
        if config.get(key) != value or key not in config:
            result = _replaced(result, key, yaml.safe_dump({key: value}, sort_keys=False))
    wanted = {**config, **sections}
    try:
        faithful = yaml.safe_load(result) == wanted
    except yaml.YAMLError:
        faithful = False
    # A file in an unusual form (one line in braces, say) is written anew: settings kept, comments not.
    return result if faithful else yaml.safe_dump(wanted, sort_keys=False)


def _replaced(text: str, key: str, block: str) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    lines = text.splitlines(keepends=True)
    for name, value in pairs:
        if name.value == key:
            start, end = name.start_mark.line, max(value.end_mark.line, name.start_mark.line + 1)
            # YAML counts the blank and comment lines that follow to the section; they are the next one's.
            while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
                end -= 1
            return "".join([*lines[:start], block, *lines[end:]])
    separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{separator}{block}"


def _back_up(path: Path) -> Path:
    number = 1
    while (copy := path.with_name(f"{path.name}.bak{number}")).exists():
        number += 1
    shutil.copy2(path, copy)
    return copy


def _write(path: Path, text: str) -> None:
    """Put the whole new file in place at once, with the mode of the old one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new = Path(scratch) / path.name
        new.write_text(text, encoding="utf-8")
        new.chmod(mode)
        new.replace(path)


def _activate(home: Path) -> Iterator[str]:
    base = home / ".cloudify"
    active = base / "active.profile"
    before = active.read_text(encoding="utf-8").strip() if active.is_file() else ""
    if before == "local" and (base / "profiles").is_dir():
        yield "profile local: active already"
        return
    command = [*CFY, "profiles", "use", "local"]
    run = subprocess.run(command, env={**os.environ, "CFY_WORKDIR": str(home)}, capture_output=True, text=True)
    if run.returncode != 0:
        said = (run.stderr.strip() or run.stdout.strip() or f"exit status {run.returncode}").splitlines()[-1]
        remedy = "cfy 7.0.5 needs setuptools below 81: pip install 'setuptools<81'." if "pkg_resources" in said else ""
        raise CoreError("activate", "the profile local", said, remedy)
    yield f"profile local: active now{f' (was {before})' if before else ''}"
