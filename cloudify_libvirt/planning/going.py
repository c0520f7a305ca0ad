"""What is taken now by something that goes before anything is made: an update removes first."""

from __future__ import annotations

from collections.abc import Iterable

from cloudify_libvirt.planning.model import Action, Entry
from cloudify_libvirt.planning.world import World

_LATER = "known after install"


def settle(entry: Entry, gone: Iterable[Entry]) -> None:
    """Take back the problems of a new instance that only what goes causes, such as the name of a renamed node's object.

    An update removes the nodes that a blueprint has no more, with what they hold, and then makes the new ones.
    """
    if entry.action is not Action.CREATE:
        return
    for problem in list(entry.problems):
        holder = next((one for one in gone if _is_why(one, entry, problem)), None)
        if holder is not None:
            entry.problems.remove(problem)
            what = f"{holder.kind} '{holder.name}' of node {holder.node}"
            entry.notes.append(f"{what} is removed first, with what it holds: that is no renaming. Then it is made")


def _is_why(holder: Entry, entry: Entry, problem: str) -> bool:
    """Tell whether a problem is about an object that goes; names are looked for in the reason alone."""
    reason = problem.partition(": ")[2]
    words = [word for word in (holder.uuid, holder.name and f"{holder.kind} '{holder.name}'") if word]
    return bool(holder.kind) and holder.host == entry.host and any(word in reason for word in words)


def doubt(world: World, entries: Iterable[Entry], gone: Iterable[Entry]) -> None:
    """Strike out what is chosen among what is free, and is not what will be free then.

    Two networks may choose the same subnet: who comes first has it. And what goes leaves its own.
    """
    leaving = {one.host for one in gone if one.kind == "network"}
    twice = {subnet for uri, subnet in world.subnets if world.subnets.count((uri, subnet)) > 1}
    chosen = {choice for _uri, choice in world.subnets}
    for entry in entries:
        if entry.kind != "network" or entry.action is not Action.CREATE:
            continue
        for name in ("cidr", "cidr6"):
            said = entry.facts.get(name)
            if said in twice or (entry.host in leaving and said in chosen):
                entry.facts[name], entry.xml = None, None
                why = "as several networks are made at once" if said in twice else "as another network goes first"
                entry.notes.append(f"{_LATER}: {name}, {why}")
