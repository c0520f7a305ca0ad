"""Run cfy, and do something to libvirtd the moment it gets to a place for the n-th time.

python cfy_outage.py WHAT PLACE=COUNT,... ARGUMENT...

WHAT: restart, gone:SECONDS or hung:SECONDS. PLACE: a text that the engine says, or a function of libvirt's binding:
virDomainCreate after its call, virDomainCreate@0.1 in the middle of it, 0.1 s after its beginning.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import libvirtmod

from tests.real import daemon


class Trigger:
    """Counts the visits of each place, and acts."""

    def __init__(self, what: str, moments: str) -> None:
        name, _, seconds = what.partition(":")
        self.act = functools.partial(getattr(daemon, name), *([float(seconds)] if seconds else []))
        self.wanted = {(place, int(count)) for place, _, count in (one.partition("=") for one in moments.split(","))}
        self.places = {place for place, _ in self.wanted}
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()

    def hit(self, place: str) -> None:
        with self.lock:
            self.seen[place] += 1
            visit = (place, self.seen[place])
        if visit in self.wanted:
            print(f"OUTAGE after {place} {visit[1]}", flush=True)
            self.act()

    def follow(self, place: str) -> None:
        """Come by here at each call of a function of the binding."""
        name, _, delay = place.partition("@")
        function: Callable[..., Any] = getattr(libvirtmod, name)

        def call(*arguments: Any) -> Any:
            if delay:
                threading.Timer(float(delay), self.hit, (place,)).start()
            answer = function(*arguments)
            if not delay:
                self.hit(place)
            return answer

        setattr(libvirtmod, name, call)


class Said:
    """Standard output that is listened to."""

    def __init__(self, stream: Any, trigger: Trigger) -> None:
        self.stream, self.trigger = stream, trigger

    def write(self, data: str) -> int:
        written: int = self.stream.write(data)
        for place in self.trigger.places:
            if place in data and not data.startswith("OUTAGE"):
                self.trigger.hit(place)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


if __name__ == "__main__":
    what, moments, *arguments = sys.argv[1:]
    trigger = Trigger(what, moments)
    for place in trigger.places:
        if hasattr(libvirtmod, place.partition("@")[0]):
            trigger.follow(place)
    sys.stdout = Said(sys.stdout, trigger)
    sys.argv = ["cfy", *arguments]
    from cloudify_cli.main import _cfy

    sys.exit(_cfy())
