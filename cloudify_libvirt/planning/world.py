"""What will be there once the planned instances are: pools, volumes and networks, beside those of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from cloudify_libvirt.core.errors import CoreError, Missing
from cloudify_libvirt.core.network import Network
from cloudify_libvirt.core.pool import Pool
from cloudify_libvirt.core.volume import Volume
from cloudify_libvirt.planning.looking import Look

Key = tuple[str, ...]


class NotYet(CoreError):
    """Something cannot be known before something else is made."""


@dataclass(frozen=True)
class PlannedVolume:
    """A volume that will be made; ``path`` and ``format`` "" where only the host will say."""

    path: str
    format: str


@dataclass
class World:
    """By hypervisor's URI and name: pools with their directories, volumes, networks; and subnets chosen for those.

    ``missing``, by URI, kind and name: what a node uses and nobody has; that is said of that node alone.
    """

    pools: dict[Key, str] = field(default_factory=dict)
    volumes: dict[Key, PlannedVolume] = field(default_factory=dict)
    networks: set[Key] = field(default_factory=set)
    subnets: list[tuple[str, str]] = field(default_factory=list)
    missing: set[Key] = field(default_factory=set)

    def directory(self, look: Look, name: str) -> str:
        """Return a pool's directory, "" where its type has none; nothing is started.

        Raises:
            Missing: it does not exist, and no node makes it.
            NotYet: it does not exist, and the node that uses it says so.
        """
        if (look.uri, name) in self.pools:
            return self.pools[look.uri, name]
        if (look.uri, "pool", name) in self.missing:
            raise NotYet("tell", f"what is in pool '{name}'", "it does not exist, as its node says")
        remedy = "Name an existing pool in params.pool, or add a node of type cloudify.libvirt.pool."
        return Pool.get(look.session, name, remedy).directory

    def place_disks(self, look: Look) -> None:
        """Put the paths of volumes that will be made into the request's disks.

        Raises:
            NotYet: only the host will say where one is.
        """
        disks = look.params.get("disks") or []
        if not isinstance(disks, list):
            return
        placed = [self._placed(look, disk) if isinstance(disk, Mapping) else disk for disk in disks]
        if placed != disks:
            look.params["disks"] = placed
            look.__dict__.pop("spec", None)

    def _placed(self, look: Look, disk: Mapping[str, Any]) -> Mapping[str, Any]:
        name, pool = disk.get("volume"), str(disk.get("pool") or look.draft.pool or "")
        planned = self.volumes.get((look.uri, pool, str(name)))
        if not name or (planned is None and self._stored(look, pool, str(name))):
            return disk
        if planned is None or not planned.path:
            raise NotYet("tell", f"the path of volume '{name}' of pool '{pool}'", "it does not exist yet")
        rest = {key: value for key, value in disk.items() if key not in ("volume", "pool")}
        return {"type": planned.format or "raw", **rest, "file": planned.path}

    def _stored(self, look: Look, pool: str, name: str) -> bool:
        found = Pool.find(look.session, pool)
        return found is not None and found.active and Volume.find(found, name) is not None

    def path(self, look: Look, pool: str, name: str) -> str:
        """Return where a volume will be, "" where that is not to be told."""
        directory = self.directory(look, pool)
        return str(PurePosixPath(directory) / name) if directory else ""

    def check_network(self, look: Look, name: str) -> None:
        """Raise ``Missing`` where a network does not exist and no node makes it."""
        known = (look.uri, name) in self.networks or (look.uri, "network", name) in self.missing
        if not known and Network.find(look.session, name) is None:
            remedy = "Check params.networks, or add a node of type cloudify.libvirt.network."
            raise Missing("use", Network.label(name, look.session), "it does not exist", remedy)
