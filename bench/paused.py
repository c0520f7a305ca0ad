"""A domain that is paused at once: a hundred firmwares that look for a system would take all of the machine."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt import domain_tasks


def start(**inputs: Any) -> None:
    """Start the domain, and pause it before anybody else is started."""
    domain_tasks.start(**inputs)
    domain_tasks.suspend(**inputs)
