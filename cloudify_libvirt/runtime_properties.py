"""What operations write to runtime properties, in words: the reference pages are made from it.

``record.OWN_KEYS`` names the same keys; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

EVERY = frozenset({"domain", "network", "pool", "volume", "iso9660"})
_OBJECTS = EVERY - {"iso9660"}
_DOMAIN = frozenset({"domain"})


@dataclass(frozen=True)
class RuntimeProperty:
    """One key; ``kinds`` are the nouns whose operations write it. Without description it is a journal of our own."""

    key: str
    kinds: frozenset[str]
    description: str = ""


# Written before OWN_KEYS was, and kept as None by delete: existing blueprints read it.
RESOURCE_ID = "resource_id"

RUNTIME_PROPERTIES = (
    RuntimeProperty(RESOURCE_ID, EVERY, "Name of the object; null after delete."),
    RuntimeProperty("uuid", _OBJECTS, "UUID of the object; by it the object is found again."),
    RuntimeProperty("params", EVERY, "The parameters in force, completed with name, instance_uuid and what was found."),
    RuntimeProperty("libvirt_auth", EVERY, "URI of the connection in use."),
    RuntimeProperty("use_external_resource", _OBJECTS, "True when the object is not ours."),
    RuntimeProperty("index", EVERY, "Number of the instance among those of its node, from 0."),
    RuntimeProperty("ip", _DOMAIN, "First IPv4 address, else first IPv6 address; null after stop."),
    RuntimeProperty("public_ip_address", _DOMAIN, "The same as ip."),
    RuntimeProperty("ipv4_addresses", _DOMAIN, "All IPv4 addresses, in the order of the cards."),
    RuntimeProperty("ipv6_addresses", _DOMAIN, "All IPv6 addresses that others can reach."),
    RuntimeProperty("networks", _DOMAIN, "The cards: [{network, mac, dev, addresses: [{addr, prefix, type}]}]."),
    RuntimeProperty("ssh_command", _DOMAIN, "How to log in, when params.ssh_user is set."),
    RuntimeProperty("image_user", _DOMAIN, "Login of the image, from the catalogue; used for ssh_command."),
    RuntimeProperty("accelerator", _DOMAIN, "Why KVM or emulation was chosen."),
    RuntimeProperty("domain_type", _DOMAIN, "libvirt's type of the domain: kvm, qemu, lxc, ..."),
    RuntimeProperty("arch", _DOMAIN, "Architecture that it was made for."),
    RuntimeProperty("console_log", _DOMAIN, "File of the hypervisor's host that the console is logged to."),
    RuntimeProperty("serial_logs", _DOMAIN, "Files of the hypervisor's host that further serial lines are kept in."),
    RuntimeProperty("stat", _DOMAIN, "What it consumed when last asked: {cpu: percent of one CPU, memory: MiB}."),
    RuntimeProperty("update_pending", EVERY, "What an update left to do: {field: {wanted, now, why, at_start}}."),
    RuntimeProperty("update_refused", EVERY, "Why the last update of a workflow that replaces was not carried out."),
    RuntimeProperty("restarting", _DOMAIN),
    RuntimeProperty("detach_pending", _DOMAIN, "Devices that the running guest has not given back."),
    RuntimeProperty("bridge", frozenset({"network"}), "Bridge of the network."),
    RuntimeProperty("cidr", frozenset({"network"}), "The IPv4 network in use, where cidr was given; also for auto."),
    RuntimeProperty("cidr6", frozenset({"network"}), "The IPv6 network in use, where cidr6 was given; also for auto."),
    RuntimeProperty("path", frozenset({"pool", "volume"}), "Path on the hypervisor's host."),
    RuntimeProperty("pool", frozenset({"volume"}), "Pool that the volume is in."),
    RuntimeProperty("snapshots", _OBJECTS, "Snapshots and backups by name: {type, incremental, created}."),
    RuntimeProperty("backups", frozenset({"network", "pool", "volume"}), "Kept definitions by full name."),
    RuntimeProperty("restore_stopped", _DOMAIN),
    RuntimeProperty("last_backup", _DOMAIN, "The newest point: {point, created, kind, parent, reason, bytes, ...}."),
    RuntimeProperty("adopted", _OBJECTS, "The earlier install that it was taken over from: {instance, since}."),
    RuntimeProperty("params_from_properties", EVERY),
    RuntimeProperty("origin", frozenset({"domain", "volume"})),
    RuntimeProperty("made", _DOMAIN),
    RuntimeProperty("filled", frozenset({"domain", "volume"})),
    RuntimeProperty("reservations", _DOMAIN),
    RuntimeProperty("started_at", _DOMAIN),
    RuntimeProperty("shutdown_asked_at", _DOMAIN),
    RuntimeProperty("stale_leases", _DOMAIN),
    RuntimeProperty("snapshot_files", _DOMAIN),
    RuntimeProperty("snapshot_job", _DOMAIN),
    RuntimeProperty("built", frozenset({"pool"})),
    RuntimeProperty("formatted", frozenset({"pool"})),
    RuntimeProperty("secret", frozenset({"pool"}), "UUID of libvirt's secret that keeps the pool's credentials."),
    RuntimeProperty("wiped", frozenset({"volume"})),
    RuntimeProperty("rendered_by", _OBJECTS),
    RuntimeProperty("attached", _DOMAIN),
    RuntimeProperty("suspended", _DOMAIN),
    RuntimeProperty("stopped", frozenset({"domain", "pool"})),
    RuntimeProperty("by_input", frozenset({"iso9660"})),
    RuntimeProperty("declared", frozenset({"domain", "network", "pool"})),
    RuntimeProperty("made_as", frozenset({"volume"})),
    RuntimeProperty("ejected", frozenset({"iso9660"})),
)
