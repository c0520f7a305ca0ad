"""``cfy-libvirt drift``: what of a deployment of local mode is not as declared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from cloudify_libvirt import deployments
from cloudify_libvirt.core.errors import CoreError, Missing
from cloudify_libvirt.core.units import human_size

NONE, ERROR, DRIFT = 0, 1, 2
_LAST_LINES = 5
_BYTES = frozenset({"memory", "max_memory", "size", "capacity"})


@click.command()
@click.argument("deployment")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def drift(deployment: str, as_json: bool) -> None:
    """Compare what DEPLOYMENT declares with what the host has; nothing is changed.

    Runs the workflow check_drift of that deployment in local mode. Ends with 0 when there is no drift, with 2 when
    there is, and with 1 when that cannot be told.
    """
    before = _checks(deployment)
    said = _run(deployment)
    after = _checks(deployment)
    stale = [instance for instance, check in after.items() if not check or check == before.get(instance)]
    if said.returncode or not after or len(stale) == len(after):
        raise _failure(deployment, said)
    found = [{"instance": instance, **one} for instance, check in after.items() for one in check.get("result") or []]
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        _print(found)
    sys.exit(DRIFT if found else NONE)


def _print(found: list[dict[str, Any]]) -> None:
    for one in found:
        declared, there = (_said(one["field"], one[key]) for key in ("declared", "found"))
        waits = f"; pending: {one['pending']}" if one.get("pending") else ""
        click.echo(f"{one['instance']}: {one['object']}: {one['field']}: {declared} -> {there} ({one['where']}){waits}")
    if not found:
        click.echo("no drift")


def _said(field: str, value: Any) -> Any:
    if value is None:
        return "nothing"
    return human_size(int(value)) if field.rpartition(".")[2] in _BYTES and str(value).isdigit() else value


def _checks(deployment: str) -> dict[str, dict[str, Any]]:
    """Return what the engine stored of the last check, by instance.

    Raises:
        Missing: there is no such deployment.
    """
    try:
        instances = deployments.instances(deployments.default_home(), deployment)
    except OSError as error:
        target = f"deployment '{deployment}' in {deployments.default_home()}"
        absent = isinstance(error, FileNotFoundError)
        reason = "it is not installed there" if absent else error.strerror or str(error)
        raise Missing("look at", target, reason, "The names are those of: cfy blueprints list.") from error
    return {
        str(one["id"]): (one.get("system_properties") or {}).get("configuration_drift") or {}
        for one in instances
    }  # fmt: skip


def _run(deployment: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow with the cfy of this very installation, which has the plugin."""
    beside = Path(sys.executable).with_name("cfy")
    command = str(beside) if beside.exists() else "cfy"
    try:
        return subprocess.run(
            [command, "executions", "start", "check_drift", "-b", deployment],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        reason = "there is no cfy"
        raise Missing("run", "cfy executions start check_drift", reason, "Install cloudify.") from error


def _failure(deployment: str, said: subprocess.CompletedProcess[str]) -> CoreError:
    lines = [line for line in said.stdout.splitlines() if line.strip()][-_LAST_LINES:]
    return CoreError("tell the drift of", f"deployment '{deployment}'", "\n".join(lines))
