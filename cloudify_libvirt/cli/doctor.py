"""The command ``doctor``: what a host lacks for guests, with the command that mends it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloudify_libvirt.core.doctor import table
from cloudify_libvirt.core.doctor.finding import Finding

PROBLEMS, UNREACHABLE = 1, 2
_SIGNS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "bold red"),
          "unknown": ("not seen", "dim")}  # fmt: skip


@click.command("doctor")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), metavar="PATH",
    help="Also look whether guests may read this image. May be given more than once.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verbose", "-v", is_flag=True, help="Also show why it matters, and what cannot be seen.")
@click.pass_context
def doctor(ctx: click.Context, uris: tuple[str, ...], images: tuple[Path, ...], as_json: bool, verbose: bool) -> None:
    """Look at hosts and say what they lack for guests. Nothing is changed.

    URI is a hypervisor such as qemu:///system (the default), lxc:///system or qemu+ssh://root@host/system.
    Each warning and problem comes with the command that mends it, to be run as root on that host.

    Exit code: 0 no problems (there may be warnings), 1 problems, 2 a hypervisor cannot be reached.
    """
    paths = [str(path.absolute()) for path in images]
    found = {uri: list(table.examine(table.reach(uri, paths))) for uri in uris or ("qemu:///system",)}
    if as_json:
        hosts = [{"uri": uri, "findings": [asdict(one) for one in each]} for uri, each in found.items()]
        click.echo(json.dumps(hosts, indent=2))
    else:
        for uri, findings in found.items():
            _print(uri, findings, verbose=verbose)
    ctx.exit(max(map(_code, found.values())))


def _code(findings: list[Finding]) -> int:
    problems = {finding.check for finding in findings if finding.state == "problem"}
    if problems & {"library", "connection"}:
        return UNREACHABLE
    return PROBLEMS if problems else 0


def _print(uri: str, findings: list[Finding], *, verbose: bool) -> None:
    # Commands must stay whole to be copied: without a terminal nothing is folded.
    console = Console()
    shown = Console(width=None if console.is_terminal else 400)
    grid = Table(title=uri, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for finding in findings if verbose else filter(_matters, findings):
        word, style = _SIGNS[finding.state]
        grid.add_row(Text(word, style), Text(finding.looked_at), _said(finding, verbose=verbose))
    shown.print(grid)
    counts = {state: sum(finding.state == state for finding in findings) for state in ("problem", "warning")}
    unseen = len(findings) - sum(map(_matters, findings))
    rest = f", {unseen} not looked at" if unseen else ""
    shown.print(f"{counts['problem']} problems, {counts['warning']} warnings{rest}", highlight=False)


def _matters(finding: Finding) -> bool:
    return finding.state != "unknown"


def _said(finding: Finding, *, verbose: bool) -> Text:
    said = Text(finding.found)
    if finding.why and (verbose or finding.state == "problem"):
        said.append(f"\n{finding.why}", "dim")
    if finding.command and finding.state != "ok":
        said.append(f"\n$ {finding.command}", "bold")
    return said
