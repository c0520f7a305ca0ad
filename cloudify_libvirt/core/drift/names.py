"""What the parts of libvirt's documents are called in blueprints. Pure tables."""

from __future__ import annotations

_ROOT = {
    "@type": "type",
    "memory": "max_memory",
    "currentMemory": "memory",
    "vcpu": "max_vcpu",
    "vcpu/@current": "vcpu",
    "vcpu/@cpuset": "cpu_tune.cpus",
    "os/type": "os",
    "os/type/@machine": "machine",
    "os/type/@arch": "arch",
    "os/boot": "boot.devices",
    "os/boot/@dev": "boot.devices",
    "os/init": "init",
    "on_poweroff": "events.poweroff",
    "on_reboot": "events.reboot",
    "on_crash": "events.crash",
    "cpu/@mode": "cpu_mode",
    "bridge/@name": "dev",
    "bridge/@stp": "stp",
    "bridge/@delay": "delay_s",
    "mtu/@size": "mtu",
    "mac/@address": "mac",
    "forward": "mode",
    "forward/@mode": "mode",
    "domain/@name": "domain",
    "domain/@localOnly": "domain_local",
    "capacity": "size",
    "target/path": "path",
    "target/permissions/mode": "mode",
    "target/permissions/owner": "owner",
    "target/permissions/group": "group",
    "target/format/@type": "format",
    "backingStore": "backing",
    "backingStore/path": "backing",
    "target/encryption": "encryption",
    "devices/memballoon/@model": "balloon.model",
    "devices/video/model/@type": "video.model",
    "devices/emulator": "emulator",
}
# Lists, and what the parts of one entry are called.
_LISTS = {
    "disk": "disks",
    "interface": "networks",
    "filesystem": "filesystems",
    "hostdev": "devices",
    "channel": "channels",
    "serial": "serials",
    "graphics": "graphics",
    "ip": "ips",
    "range": "ranges",
    "host": "hosts",
    "route": "routes",
    "portgroup": "portgroups",
    "txt": "dns.txt",
    "srv": "dns.srv",
    "forwarder": "dns.forwarders",
    "option": "dnsmasq",
    "shmem": "shared_memory",
}
_PARTS = {
    "disk": {
        "source": "file", "source/@file": "file", "source/@dev": "block", "target/@bus": "bus", "target/@dev": "dev",
        "driver/@type": "type", "driver/@cache": "cache", "driver/@io": "io", "driver/@discard": "discard",
        "@device": "device", "boot/@order": "boot_order",
    },
    "filesystem": {"source/@dir": "file", "target/@dir": "dev"},
    "interface": {
        "source/@network": "network", "source/@bridge": "bridge", "source/@portgroup": "portgroup",
        "mac/@address": "mac", "model/@type": "model", "model": "model", "mtu/@size": "mtu", "link/@state": "link",
        "target/@dev": "dev", "boot/@order": "boot_order", "@type": "kind",
    },
    "range": {"@start": "start", "@end": "end", "lease/@expiry": "lease_s"},
    "host": {"@ip": "ip", "@name": "name", "hostname": "names", "lease/@expiry": "lease_s"},
    "ip": {"@prefix": "prefix", "dhcp": "dhcp"},
    "route": {"@prefix": "to", "@gateway": "via", "@metric": "metric"},
}  # fmt: skip


def root_name(path: str) -> str:
    """Return the parameter's name of a path such as ``vcpu/@current``, or the path in the same style."""
    return _ROOT.get(path) or _as_words(path.removeprefix("devices/"))


def field_name(kind: str, path: str) -> str:
    """Return the name of a part of a listed thing; with kind "" that of the list."""
    if not kind:
        return _LISTS.get(path, path)
    return _PARTS.get(kind, {}).get(path) or _as_words(path)


def _as_words(path: str) -> str:
    return path.replace("/@", ".").replace("@", "").replace("/", ".")
