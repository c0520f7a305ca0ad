"""``cfy-libvirt plan``: what a blueprint would make, and what it would change of what is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cloudify_libvirt.core.drift.names import in_words
from cloudify_libvirt.core.errors import CoreError

_SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "replace": ("!", "red"), "delete": ("-", "red"),
          "keep": ("=", None), "use": ("=", None)}  # fmt: skip
_COUNTED = {"keep": "unchanged", "use": "used"}
_LATER = "known after install"
_LAST_LINES = 5


@click.command()
@click.argument("blueprint", type=click.Path(path_type=Path))
@click.option("-i", "--inputs", multiple=True, help="As of cfy install: files, YAML or JSON, name=value;name=value.")
@click.option("-b", "--deployment", default="", help="Name of the deployment; as cfy install would call it.")
@click.option("--xml", "with_xml", is_flag=True, help="Also show the definitions that libvirt will get.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def plan(blueprint: Path, inputs: tuple[str, ...], deployment: str, with_xml: bool, as_json: bool) -> None:
    """Say what installing BLUEPRINT will make; of an installed deployment, what an update will change, and how.

    Nothing is changed, fetched or started. Ends with 0 when there is nothing to do, with 2 when there is, and with 1
    when something stands against it.
    """
    found = _made(blueprint, inputs, deployment)
    if not with_xml:
        for one in found["instances"]:
            del one["xml"]
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        for line in _lines(found):
            click.echo(line)
    sys.exit(found["code"])


def _made(blueprint: Path, inputs: tuple[str, ...], deployment: str) -> dict[str, Any]:
    """Return the plan, made in a process that has the engine; inputs may be secret, so that no argument names them."""
    order = {"blueprint": str(blueprint), "inputs": inputs, "deployment": deployment}
    # Commands are not to leave compiled files behind either.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cloudify_libvirt.planning"],
        input=json.dumps(order), capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        lines = [line for line in done.stderr.splitlines() if line.strip()][-_LAST_LINES:]
        target = f"blueprint {blueprint}"
        raise CoreError("plan", target, "\n".join(lines) or "no answer", "See the lines above.") from None
    if "error" in answer:
        raise click.ClickException(answer["error"])
    found: dict[str, Any] = answer["plan"]
    return found


def _lines(found: dict[str, Any]) -> Iterator[str]:
    state = "installed" if found["installed"] else "not installed"
    yield f"deployment {found['deployment']} ({state}), blueprint {found['blueprint']}"
    for problem in found["problems"]:
        yield click.style(f"problem: {problem}", fg="red")
    for one in found["instances"]:
        yield from _instance(one)
    counts = [f"{count} {_counted(action, count)}" for action, count in found["summary"].items() if count]
    yield ", ".join(counts) or "nothing"


def _counted(action: str, count: int) -> str:
    if action == "problems":
        return "problem" if count == 1 else action
    return _COUNTED.get(action, f"to {action}")


def _instance(one: dict[str, Any]) -> Iterator[str]:
    sign, colour = _SIGNS[one["action"]]
    what = f"{one['kind']} {one['name'] or _LATER}" if one["ours"] else f"{one['type']} (not ours)"
    where = f" on {one['host']}" if one["host"] else ""
    number = f"{one['node']} {one['number']}" if one["ours"] else one["node"]
    tail = {"keep": ": nothing to do", "use": ": used, untouched"}.get(one["action"], "")
    yield click.style(f"{sign} {one['action']} {what}{where} (node {number}){tail}", fg=colour)
    if one["uuid"] and one["action"] != "keep":
        yield f"    uuid: {one['uuid']}"
    for key, value in one["facts"].items():
        yield from _fact(key, value)
    for change in one["changes"]:
        yield _change(change)
    for note in one["notes"]:
        yield f"    note: {note}"
    for problem in one["problems"]:
        yield click.style(f"    problem: {problem}", fg="red")
    for line in (one.get("xml") or "").splitlines():
        yield f"    | {line}"


def _fact(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield f"    {key}: {', '.join(_pairs(item)) if isinstance(item, dict) else item}"
    elif value is not False and value != "":
        yield f"    {key}: {in_words(key, value, _LATER)}"


def _pairs(item: dict[str, Any]) -> Iterator[str]:
    for key, value in item.items():
        yield f"{key} {in_words(key, value, _LATER)}"


def _change(change: dict[str, Any]) -> str:
    old, new = (in_words(change["field"], change[key]) for key in ("old", "new"))
    how, note = change["how"], change["note"]
    if how == "refused":
        return click.style(f"    {change['field']}: {old} -> {new}  [refused: {note}]", fg="red")
    said = f"{change['field']}: {old}" if how == "stays" else f"{change['field']}: {old} -> {new}"
    return f"    {said}{f'  [{how}]' if how else ''}{f'  {note}' if note else ''}"
