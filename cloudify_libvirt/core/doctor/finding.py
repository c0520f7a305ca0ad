"""What a look at one thing of a host says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.session import Session

State = Literal["ok", "warning", "problem", "unknown"]
Noun = Literal["host", "domain", "network", "pool", "volume", "iso9660"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    ``unknown`` is what cannot be seen from here. ``command`` mends it, as root on that host; "" where none can.
    """

    state: State
    looked_at: str
    found: str
    why: str = ""
    command: str = ""
    check: str = ""


ok = partial(Finding, "ok")
warning = partial(Finding, "warning")
problem = partial(Finding, "problem")
unknown = partial(Finding, "unknown")


@dataclass(frozen=True)
class Target:
    """The host that is looked at; without a session, ``fault`` says why there is none."""

    uri: str
    session: Session | None
    fault: CoreError | None = None
    images: tuple[str, ...] = ()

    @property
    def connected(self) -> Session:
        """Return the session, for checks that are only run with one."""
        if self.session is None:
            raise CoreError("look at", self.uri, "there is no connection")
        return self.session


@dataclass(frozen=True)
class Check:
    """One check: the nouns that it concerns, and what it needs to be able to look."""

    name: str
    run: Callable[[Target], Iterator[Finding]]
    concerns: frozenset[Noun]
    connected: bool = True
    here: bool = False
    drivers: frozenset[str] = frozenset()
