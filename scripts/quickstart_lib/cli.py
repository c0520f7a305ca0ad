"""The command line of scripts/quickstart."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import platformdirs
import yaml

from cloudify_libvirt.core.errors import CoreError
from quickstart_lib import guest, home, host
from quickstart_lib.deployment import Deployment
from quickstart_lib.guest import Login
from quickstart_lib.host import ROOT, Host
from quickstart_lib.problem import Problem
from quickstart_lib.state import Place, State, public_half, user_key
from quickstart_lib.view import Screen

DEFAULT_MACHINES = 3
INTERRUPTED = 130


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for."""

    machines: int | None
    image: str | None
    ssh_user: str | None
    ssh_key: Path | None
    lab: bool


@click.command()
@click.option("--machines", type=click.IntRange(1, 200), help=f"How many (default: {DEFAULT_MACHINES}).")
@click.option("--image", help="Path or URL of a cloud image; default: a tiny one that is built here.")
@click.option("--ssh-user", help="The login of --image.")
@click.option("--ssh-key", type=click.Path(path_type=Path), help="Your private key; default: one made for this.")
@click.option("--lab", is_flag=True, help="Leave the machine's own libvirt alone, even when it answers.")
@click.option("--down", is_flag=True, help="Take everything away.")
def main(down: bool, **wishes: Any) -> None:
    """Bring machines up, log into them; or take them away."""
    screen = Screen()
    try:
        wanted = Wishes(**wishes)
        if bool(wanted.image) != bool(wanted.ssh_user):
            raise Problem("--image and --ssh-user go together", "Give both: the login differs from image to image.")
        become_able(wanted.lab)
        if down:
            take_away(screen)
        else:
            bring_up(screen, wanted)
    except Problem as problem:
        fail(screen, problem.what, problem.details, problem.remedy)
    except CoreError as error:
        fail(screen, str(error), [], "Mend that, then run this again.")
    except KeyboardInterrupt:
        screen.plain("\nInterrupted. Run it again to go on, with --down to take away what there is.")
        sys.exit(INTERRUPTED)


def fail(screen: Screen, what: str, details: list[str], remedy: str) -> None:
    """Say what is wrong, and end."""
    screen.plain(f"\nFailed: {what}", "bold red")
    for line in details:
        screen.plain(f"  {line}")
    screen.plain(remedy)
    sys.exit(1)


def become_able(wants_lab: bool) -> None:
    """Go on as root where nothing works without: no libvirt that lets this user in."""
    if os.geteuid() == 0 or (host.machine_answers() and not wants_lab):
        return
    if shutil.which("sudo") is None:
        raise Problem("this needs root, and there is no sudo", "Run this as root.")
    script = str(ROOT / "scripts" / "quickstart")
    print("Going on as root, with sudo: no libvirt answers this user. cfy's files will be in root's home.", flush=True)
    os.execvp("sudo", ["sudo", "-H", "--preserve-env=CLOUDIFY_LIBVIRT_LAB_DIR,COLUMNS", script, *sys.argv[1:]])


def bring_up(screen: Screen, wishes: Wishes) -> None:
    """Bring the machines up, or find them up; show them and log in."""
    place = Place()
    made = place.create()
    with place.locked():
        with ExitStack() as undo:
            undo.callback(place.remove, made)
            state = place.load() or first_state(screen, place, wishes, made)
            undo.pop_all()
        on = Host(state.on)
        deployment = Deployment(on, screen, place.logs)
        deployment.refuse_busy()
        refuse_changes(deployment, state, wishes)
        if state.on == "lab" and not host.lab_runs():
            with screen.busy("starting a private libvirt host (scripts/lab): the machine's own does not answer"):
                host.lab_up()
        for line in home.prepare(place.before):
            screen.say(line)
        converge(screen, deployment, place, state, wishes)
        show(screen, deployment, Path(state.key))


def first_state(screen: Screen, place: Place, wishes: Wishes, made: list[str]) -> State:
    """Decide where to run, and remember it."""
    if Deployment.exists():
        raise Problem(
            "there is a deployment 'quickstart' that this script did not make",
            "Remove it first: .venv/bin/cfy uninstall -b quickstart",
        )
    on = "machine" if host.machine_answers() and not wishes.lab else "lab"
    where = "the machine's own libvirt" if on == "machine" else "a private libvirt host (scripts/lab)"
    screen.say(f"using {where}")
    key = user_key(wishes.ssh_key) if wishes.ssh_key else place.own_key()
    ours = on == "lab" and not host.lab_runs()
    state = State(on, ours, wishes.machines or DEFAULT_MACHINES, str(key), made)
    place.save(state)
    return state


def refuse_changes(deployment: Deployment, state: State, wishes: Wishes) -> None:
    """Refuse another number of machines than there are: who wants that has ``scale``."""
    if wishes.machines is None:
        return
    there = deployment.machines() or state.machines
    if wishes.machines != there:
        scale = "cfy executions start scale -b quickstart -p scalable_entity_name=machine -p delta="
        raise Problem(
            f"a cluster of {there} is there already, not of {wishes.machines}",
            f"Scale it: {deployment.host.shown_prefix}.venv/bin/{scale}{wishes.machines - there}\n"
            "Or take it away first: scripts/quickstart --down",
        )


def converge(screen: Screen, deployment: Deployment, place: Place, state: State, wishes: Wishes) -> None:
    """Do what is missing: everything, the rest of an install, or the start of what was shut down."""
    if not deployment.exists():
        write_inputs(screen, place, state, wishes)
        deployment.install(place.inputs)
        return
    instances = deployment.instances()
    if any(instance["state"] != "started" for instance in instances):
        screen.say("an earlier install did not end: going on with it")
        deployment.go_on()
        return
    domains = {one["runtime_properties"]["resource_id"] for one in instances if one["node_id"] == "machine"}
    stopped = domains - deployment.host.running()
    if stopped:
        screen.say(f"installed, but not running: {', '.join(sorted(stopped))}")
        deployment.start()
    else:
        screen.say("the cluster runs already")


def write_inputs(screen: Screen, place: Place, state: State, wishes: Wishes) -> None:
    """Write the blueprint's inputs; the image is built first when none was given."""
    inputs: dict[str, object] = {"machines": state.machines, "ssh_public_key": public_half(Path(state.key))}
    if wishes.image:
        image = wishes.image if "://" in wishes.image else str(Path(wishes.image).absolute())
        inputs |= {"image": image, "ssh_user": wishes.ssh_user}
    else:
        with screen.busy("looking for the tiny guest's image (scripts/build-guest tiny)") as more:
            image = str(guest.build_tiny(more))
        inputs |= {"image": image, "ssh_user": "root", "memory": "128 MiB", "disk": "256 MiB"}
    screen.say(f"image: {image}")
    place.inputs.write_text(yaml.safe_dump(inputs))


def show(screen: Screen, deployment: Deployment, key: Path) -> None:
    """Print the outputs, log into each machine, and tell what can be done next."""
    outputs = deployment.outputs()
    logins = [Login(deployment.host, key, command.split()[-1]) for command in outputs["ssh"]]
    machines = zip(outputs["names"], outputs["addresses"], (login.shown() for login in logins), strict=True)
    screen.plain()
    screen.table(["name", "address", "log in with"], sorted(map(list, machines)))
    screen.plain()
    with screen.busy("logging into each machine"):
        answers = guest.look_around(logins)
    rows = [[address, *said] for address, said in zip(outputs["addresses"], answers, strict=True)]
    screen.table(["address", "hostname", "uname -a"], sorted(rows, key=lambda row: row[1]))
    screen.plain()
    screen.plain("Take everything away again: scripts/quickstart --down")


def take_away(screen: Screen) -> None:
    """Remove the machines, the lab if it is ours, the key and the state."""
    place = Place()
    state = place.load() if place.directory.exists() else None
    if state is None:
        hint = "" if os.geteuid() == 0 else " Did it run as root? Then: sudo -H scripts/quickstart --down"
        screen.plain(f"Nothing to take away.{hint}")
        return
    with place.locked():
        remove_machines(screen, place, state)
        if state.lab_is_ours:
            left = sorted(Host(state.on).domains())
            also = f", and what is in it still: {', '.join(left)}" if left else ""
            screen.say(f"ending the private libvirt host{also}")
            host.lab_down()
        for line in home.restore(place.before):
            screen.say(line)
        place.remove(state.made_directories)
    screen.say("all gone")
    screen.plain(
        f"Kept for the next time: Debian packages, {ROOT}/.venv, images in {guest.cache()}, "
        f"and the id that this user's machines are known by, in {platformdirs.user_state_path('cloudify-libvirt')}"
    )


def remove_machines(screen: Screen, place: Place, state: State) -> None:
    """Uninstall; a lab of ours that is down, or whose machines resist, goes with all that is in it."""
    deployment = Deployment(Host(state.on), screen, place.logs)
    deployment.refuse_busy()
    if state.on == "lab" and not host.lab_runs():
        if not state.lab_is_ours:
            raise Problem("the lab that holds the machines is down", "Start it: scripts/lab --name quickstart up")
    elif deployment.exists():
        try:
            deployment.uninstall()
        except Problem as problem:
            # Somebody may have begun to work on it meanwhile.
            deployment.refuse_busy()
            if not state.lab_is_ours:
                raise
            screen.say(f"{problem.what}; the whole private host goes now, and they with it")
    deployment.forget()
