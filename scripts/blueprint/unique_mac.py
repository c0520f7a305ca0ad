"""Give this instance MAC addresses: the same after every install, and of no other domain.

Inputs:
    count: how many (default 1).
    libvirt_auth: URI of the hypervisor whose domains must not have them; without it (and without a property
        or runtime property of that name) nothing is asked.
Runtime properties: ``mac`` (the first) and ``macs`` (all).
"""

from itertools import count as attempts

from cloudify import ctx
from cloudify.state import ctx_parameters as inputs

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.host.preflight import domain_macs
from cloudify_libvirt.core.units import parse_int
from cloudify_libvirt.request import Request
from cloudify_libvirt.scripting import run_script


def give(own, inputs, record):
    """Derive what is not recorded yet; the address of a domain that is already ours stays."""
    number = parse_int(inputs.get("count") or 1, "inputs.count")
    if not 1 <= number <= 32:
        raise InvalidSpec("run the script with", "inputs.count", f"{number} is not between 1 and 32")
    macs = list(record.get("macs") or [])[:number]
    if len(macs) < number:
        request = Request(own, "domain", inputs)
        taken = {mac for _, _, mac in domain_macs(request.session)} if _names_hypervisor(own, inputs) else set()
        while len(macs) < number:
            candidates = (request.identity.mac(len(macs), attempt) for attempt in attempts())
            macs.append(next(mac for mac in candidates if mac not in taken and mac not in macs))
    record.put(mac=macs[0], macs=macs)


def _names_hypervisor(own, inputs):
    places = (inputs, own.instance.runtime_properties, own.node.properties)
    return any(place.get("libvirt_auth") for place in places)


run_script(give, ctx, inputs)
