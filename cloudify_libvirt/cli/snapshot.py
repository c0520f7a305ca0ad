"""``cfy-libvirt snapshot``: snapshots of any domain, with or without a deployment."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from cloudify_libvirt.cli.options import confirm, json_option, print_json, yes_option
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.session import connect
from cloudify_libvirt.core.snapshot import snapshots as core
from cloudify_libvirt.core.snapshot.delete import delete
from cloudify_libvirt.core.snapshot.plan import Wish
from cloudify_libvirt.core.snapshot.revert import revert
from cloudify_libvirt.core.snapshot.xml import SnapshotFacts
from cloudify_libvirt.core.spec.snapshot import check_name
from cloudify_libvirt.core.units import human_size

uri_option = click.option("--uri", default="qemu:///system", show_default=True, help="The hypervisor.")
name_argument = click.argument("name")
domain_argument = click.argument("domain")


@click.group()
def snapshot() -> None:
    """Make, list, go back to and delete snapshots of a domain."""


def _domain(uri: str, name: str) -> Domain:
    return Domain.get(connect(uri), name, "Look at virsh list --all.")


@snapshot.command("create")
@domain_argument
@name_argument
@uri_option
@click.option("--kind", type=click.Choice(["auto", "internal", "external"]), default="auto", show_default=True)
@click.option("--memory/--no-memory", default=None, help="Keep the memory of a running guest, too. Default: keep it.")
@click.option("--quiesce/--no-quiesce", default=None, help="Freeze file systems through the guest agent.")
@click.option("--exclude", multiple=True, metavar="TARGET", help="Leave out a disk, as in vdb.")
@click.option("--description", default="")
@json_option
def create_command(
    domain: str, name: str, uri: str, kind: str, memory: bool | None, quiesce: bool | None,
    exclude: tuple[str, ...], description: str, as_json: bool,
) -> None:  # fmt: skip
    """Make a snapshot of DOMAIN called NAME."""
    found = _domain(uri, domain)
    wish = Wish(check_name(name, "the snapshot's name"), description, kind, memory, quiesce, exclude)
    made = core.create(found, wish)
    if as_json:
        print_json(_row(found, core.get(found, name), True))
        return
    click.echo(f"made {core.label(found, name)}: {made}")


@snapshot.command("list")
@domain_argument
@uri_option
@json_option
def list_command(domain: str, uri: str, as_json: bool) -> None:
    """List the snapshots of DOMAIN as a tree; * is the one that the present state comes from."""
    found = _domain(uri, domain)
    current = core.current(found)
    rows = [_row(found, one, one.name == current) for one in core.listed(found)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(f"no snapshots of {found.target}", err=True)
    depth: dict[str, int] = {}
    for row in rows:
        depth[str(row["name"])] = depth.get(str(row["parent"]), -1) + 1
    for row in _in_tree_order(rows, ""):
        size = "" if row["bytes"] is None else f", {human_size(int(str(row['bytes'])))}"
        mark = "*" if row["current"] else " "
        kind = f"{row['kind']}{' with memory' if row['memory'] else ''}"
        click.echo(f"{mark} {'  ' * depth[str(row['name'])]}{row['name']}  {row['created']}  {kind}{size}")


def _row(domain: Domain, one: SnapshotFacts, current: bool) -> dict[str, object]:
    return {
        "name": one.name, "parent": one.parent, "current": current, "state": one.state,
        "kind": "external" if one.external else "internal", "memory": one.memory in ("internal", "external"),
        "created": datetime.fromtimestamp(one.created, UTC).isoformat(), "description": one.description,
        "disks": sorted((*one.internal, *one.overlays)), "files": list(one.files),
        "bytes": core.allocation(domain, one),
    }  # fmt: skip


def _in_tree_order(rows: list[dict[str, object]], parent: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for row in rows:
        if row["parent"] == parent:
            found += [row, *_in_tree_order(rows, str(row["name"]))]
    return found


@snapshot.command("revert")
@domain_argument
@name_argument
@uri_option
@yes_option
@json_option
def revert_command(domain: str, name: str, uri: str, yes: bool, as_json: bool) -> None:
    """Bring DOMAIN back to the snapshot NAME; what was written since is lost."""
    found = _domain(uri, domain)
    confirm(f"What domain '{domain}' wrote since is lost. Go on?", yes=yes, as_json=as_json)
    dropped = revert(found, name)
    if as_json:
        print_json({"reverted": name, "state": found.state.name.lower(), "checkpoints_dropped": dropped})
        return
    click.echo(f"{found.target} is back at snapshot '{name}', and is {found.state.name.lower()}")
    if dropped:
        click.echo("its next backup is a full one: the checkpoints of earlier ones went")


@snapshot.command("delete")
@domain_argument
@name_argument
@uri_option
@click.option("--children", is_flag=True, help="Delete all below it, too.")
@yes_option
@json_option
def delete_command(domain: str, name: str, uri: str, children: bool, yes: bool, as_json: bool) -> None:
    """Delete the snapshot NAME of DOMAIN; the present state stays."""
    found = _domain(uri, domain)
    core.get(found, name, "delete")
    below = " and all below it" if children else ""
    confirm(f"Nobody can go back to snapshot '{name}'{below} then. Go on?", yes=yes, as_json=as_json)
    delete(found, name, children=children)
    print_json({"deleted": name}) if as_json else click.echo(f"deleted {core.label(found, name)}")
