"""The restart of an update: nothing is stopped that could not start; what fails all the same runs again as it did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cloudify_libvirt.core import parse, states
from cloudify_libvirt.core.domain import Domain
from cloudify_libvirt.core.errors import CoreError
from cloudify_libvirt.core.host import preflight
from cloudify_libvirt.core.update import hotplug, sizes
from cloudify_libvirt.request import Request
from cloudify_libvirt.steps import declared
from cloudify_libvirt.steps import domain as domains

_AGAIN = "It runs again as it did before."


def check(domain: Domain, request: Request) -> None:
    """Refuse, while it runs, what its start would fail on: a name that is taken, memory that is not there."""
    if not request.external:
        Domain.check_free(domain.session, declared.of_today(request).name, domain.uuid)
    wanted = sizes.read(domain.definition()).memory_kib
    if domain.session.driver == "qemu" and wanted:
        # What it holds now is free then.
        preflight.check_memory(domain.session, wanted - domain.memory_kib, domain.target)


@contextmanager
def or_back(domain: Domain, request: Request) -> Iterator[None]:
    """Run a block that restarts the domain; where that fails, define and start it again as it ran before.

    After a kill nobody knows how it ran: the definition that it has is started then.
    """
    before = domain.running_xml() if domain.active else ""
    devices = declared.devices(request)
    try:
        yield
    except CoreError as error:
        # It was to run: its status must say so, whatever becomes of it now.
        request.record.put(restarting=None, stopped=None, declared=devices)
        if not _again(domain, request, before):
            raise
        remedy = f"{error.remedy} {_AGAIN}".strip()
        raise type(error)(error.action, error.target, error.reason, remedy, retryable=error.retryable) from error


def _again(domain: Domain, request: Request, before: str) -> bool:
    """Start a domain that is off; tell whether that was done."""
    try:
        if domain.state not in states.OFF:
            return False
        if before:
            root = parse.document(before)
            root.find("name").text = domain.name
            Domain.define(domain.session, hotplug.as_text(root), domain.name, domain.uuid)
        domains.restarted(domain, request)
    except CoreError as error:
        request.record.warn(f"{domain.name} is not as it was before: {error}")
        return False
    return True
