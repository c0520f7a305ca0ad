"""Names that are given, never random: UUIDs, MAC addresses, bridge names.

Everything is derived from the deployment and the instance's place in it, so that a second install
has the same machines at the same addresses, and a plan can print them before anything exists.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass

# A version 5 namespace of our own; changing it would change every machine's identity.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "cloudify-libvirt-plugin")
# Prefix that QEMU and libvirt use for locally administered addresses.
MAC_PREFIX = "52:54:00"


@dataclass(frozen=True)
class Identity:
    """Who an object is: its deployment, its node and its number among the node's instances."""

    deployment: str
    node: str
    index: int
    instance: str

    @property
    def key(self) -> str:
        """Return the text that everything else is derived from; the engine's instance id is random."""
        return f"{self.deployment}/{self.node}/{self.index}"

    def uuid(self, noun: str) -> str:
        """Return the UUID of this instance's object of that noun."""
        return str(uuid.uuid5(NAMESPACE, f"{noun}/{self.key}"))

    def mac(self, interface: int, attempt: int = 0) -> str:
        """Return the MAC address of the interface with that number; other ``attempt``, other address."""
        return mac_address(self.deployment, f"{self.node}/{self.index}", interface, attempt)

    def bridge(self, attempt: int = 0) -> str:
        """Return a bridge name that fits into Linux's limit of 15 bytes. Source: linux/if.h, IFNAMSIZ."""
        return f"cfy{_digest(f'bridge/{self.key}/{attempt}')[:10]}"


def mac_address(deployment: str, instance: str, index: int, attempt: int = 0) -> str:
    """Return a locally administered MAC in lower case for the interface ``index`` of the instance."""
    digest = _digest(f"mac/{deployment}/{instance}/{index}/{attempt}")
    return ":".join([MAC_PREFIX, digest[0:2], digest[2:4], digest[4:6]])


def normalise_mac(mac: str) -> str:
    """Return a MAC in the one form that we compare: lower case, colons; what is no MAC as it is."""
    digits = re.sub(r"[:.\-\s]", "", mac).lower()
    if not re.fullmatch("[0-9a-f]{12}", digits):
        return mac.strip().lower()
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def scoped_name(name: str, suffix: str) -> str:
    """Return a file name for a volume that belongs to the object ``name``."""
    safe = re.sub(r"[^\w.+-]", "_", name)
    # Two names that differ only in replaced characters must not meet in one file.
    unique = "" if safe == name else f"-{_digest(name)[:8]}"
    return f"{safe}{unique}-{suffix}"


def assign_indexes(recorded: dict[str, int], instances: list[str]) -> dict[str, int]:
    """Give each instance of a node a number: recorded ones keep theirs, the rest take the free ones in order.

    Whoever computes it, and however often, it comes out the same for the same instances.
    """
    taken = set(recorded.values())
    free = (number for number in range(len(instances) + len(taken)) if number not in taken)
    rest = sorted(instance for instance in instances if instance not in recorded)
    return {**recorded, **dict(zip(rest, free, strict=False))}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
