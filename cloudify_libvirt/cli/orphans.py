"""``cfy-libvirt orphans``: what was made for deployments that are no more."""

from __future__ import annotations

import sys
from typing import Any

import click

from cloudify_libvirt import deployments
from cloudify_libvirt.cli.options import confirm, json_option, print_json, yes_option
from cloudify_libvirt.core.errors import AccessDenied, CoreError
from cloudify_libvirt.core.ownership import ledger
from cloudify_libvirt.core.ownership.ledger import Entry
from cloudify_libvirt.core.ownership.orphans import Look, Orphan
from cloudify_libvirt.core.ownership.orphans_removal import Removal
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.wait import Signal, wait_until

DEFAULT_URI = "qemu:///system"
# `cfy install` of an existing deployment removes its state, then reads the blueprint, then writes the new state.
SETTLED_S = 5.0
NOTHING, FAILED, FOUND = 0, 1, 2


def lives(entry: Entry) -> bool | None:
    """Tell whether an entry's instance is of a deployment of local mode, or may be found by one that is installed now.

    Raises:
        AccessDenied: the state is there, but not for us.
    """
    try:
        found = deployments.lives(entry.home, entry.deployment, entry.instance)
        return found if found is not False else deployments.installing(entry.home, entry.deployment)
    except OSError as error:
        raise AccessDenied("look at", f"the deployments in {entry.home}", str(error.strerror)) from error


@click.command()
@click.option("--uri", "uris", multiple=True, help="Hypervisor to look at; repeatable. Default: all that were used.")
@click.option("--remove", is_flag=True, help="Remove what is listed.")
@yes_option
@click.option("--running", is_flag=True, help="End and remove running guests, too.")
@click.option("--force", is_flag=True, help="Remove also what may be of another orchestrator, or cannot be told.")
@json_option
def orphans(uris: tuple[str, ...], remove: bool, yes: bool, running: bool, force: bool, as_json: bool) -> None:
    """List what this orchestrator made and no deployment has any more.

    An instance of a deployment that is being installed takes over what is left of it: that is not listed.

    Exit code: 0 nothing is left, 2 something is, 1 a hypervisor could not be looked at.
    """
    if remove and as_json and not yes:
        raise click.UsageError("--remove with --json needs --yes")
    code, found = look_at(uris)
    listed = [orphan for _look, each in found for orphan in each]
    if as_json and not remove:
        print_json([row for orphan in listed for row in rows(orphan)])
    elif not as_json:
        # Of a host that could not be looked at nobody knows that there is nothing.
        show(listed, all_seen=code == NOTHING)
    if remove and listed:
        count = sum(len(orphan.items) for orphan in listed)
        confirm(f"Remove these {count}? What they hold is lost", yes=yes, as_json=as_json)
        left = _removed(found, running=running, force=force)
        code = max(code, FOUND if left and code != FAILED else code)
        if as_json:
            print_json({"removed": [row for o in listed for row in rows(o)], "left": left})
        else:
            click.echo("".join(f"stays: {line}\n" for line in left) or "removed\n", nl=False)
        sys.exit(code)
    if remove:
        _prune(found)
        if as_json:
            print_json({"removed": [], "left": []})
    sys.exit(code or (FOUND if listed else NOTHING))


def look_at(uris: tuple[str, ...]) -> tuple[int, list[tuple[Look, list[Orphan]]]]:
    """Return what is left on each host; code FAILED when one of them could not be looked at."""
    entries = ledger.every()
    code, found, seen = NOTHING, list[tuple[Look, list[Orphan]]](), set[str]()
    for uri in uris or sorted({entry.uri for entry in entries}) or [DEFAULT_URI]:
        try:
            look = Look(connect(uri), entries, lives, frozenset({deployments.default_home()}))
            # Networks are those of every driver of a host.
            each = [one for one in look.orphans() if not (one.marked_only and str(one.entry.journal["uuid"]) in seen)]
            seen |= {str(one.entry.journal.get("uuid")) for one in each}
            found.append((look, each))
        except CoreError as error:
            click.echo(f"Error: {error}", err=True)
            code = FAILED
    return code, found


def rows(orphan: Orphan) -> list[dict[str, Any]]:
    """Return one row for each thing."""
    entry = orphan.entry
    return [
        {
            "kind": item.kind, "name": item.name, "running": item.running, "uri": entry.uri,
            "deployment": entry.deployment, "node": entry.node, "number": entry.number, "instance": entry.instance,
            "since": entry.since, "why": orphan.why, "certain": orphan.certain,
        }
        for item in orphan.items
    ]  # fmt: skip


def show(listed: list[Orphan], *, all_seen: bool) -> None:
    """Print them, one instance after the other."""
    if not listed and all_seen:
        click.echo("nothing: whatever is known here belongs to a deployment")
    for orphan in listed:
        entry = orphan.entry
        since = f", since {entry.since}" if entry.since else ""
        click.echo(f"{entry.deployment}: node {entry.node}, number {entry.number} on {entry.uri}{since}")
        click.echo(f"  {'' if orphan.certain else 'UNKNOWN: '}{orphan.why}")
        for item in orphan.items:
            click.echo(f"  {item.kind:<8} {item.name}{' (running)' if item.running else ''}")


def _removed(found: list[tuple[Look, list[Orphan]]], *, running: bool, force: bool) -> list[str]:
    homes = {orphan.entry.home for _look, each in found for orphan in each if orphan.entry.home}
    # A deployment whose state went a moment ago is perhaps about to be installed again.
    wait_until(lambda: all(deployments.still_for_s(home) >= SETTLED_S for home in homes), timeout_s=SETTLED_S,
               signal=Signal())  # fmt: skip
    left = []
    for look, each in found:
        removal = Removal(look, running=running, force=force)
        removal.run(each)
        removal.prune()
        left += removal.left
    return left


def _prune(found: list[tuple[Look, list[Orphan]]]) -> None:
    for look, _each in found:
        Removal(look).prune()
