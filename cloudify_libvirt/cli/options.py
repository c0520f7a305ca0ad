"""What the commands share: output for programs, and the question before what cannot be had again goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]

json_option: Callable[[Command], Command] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option: Callable[[Command], Command] = click.option("--yes", "-y", is_flag=True, help="Do it without asking.")


def print_json(value: object) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))


def confirm(question: str, *, yes: bool, as_json: bool = False) -> None:
    """Ask before what cannot be had again goes; end where the answer is no.

    Raises:
        UsageError: a program would be asked.
    """
    if yes:
        return
    if as_json:
        raise click.UsageError("--json here needs --yes: nobody would see the question")
    click.confirm(question, abort=True)
