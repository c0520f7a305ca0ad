"""What the parts of libvirt's documents are called in blueprints. Pure tables."""

from __future__ import annotations

from typing import Any

from cloudify_libvirt.core.units import human_size

# Parameters, at any depth, whose values are bytes.
_BYTES = frozenset({"memory", "max_memory", "disk", "size"})
_ROOT = {
    "@type": "type",
    "memory": "max_memory",
    "currentMemory": "memory",
    "maxMemory": "memory_slots",
    "maxMemory/@slots": "memory_slots",
    "vcpu": "max_vcpu",
    "vcpu/@current": "vcpu",
    "vcpu/@cpuset": "cpu_tune.cpus",
    "os/type": "os",
    "os/type/@machine": "machine",
    "os/type/@arch": "arch",
    "os/boot": "boot.devices",
    "os/boot/@dev": "boot.devices",
    "os/init": "init",
    "os/bootmenu": "boot.menu",
    "os/bootmenu/@enable": "boot.menu",
    "os/bootmenu/@timeout": "boot.menu_timeout_ms",
    "os/kernel": "boot.kernel",
    "os/initrd": "boot.initrd",
    "os/cmdline": "boot.cmdline",
    "os/dtb": "boot.dtb",
    "os/smbios": "smbios",
    "os/smbios/@mode": "smbios.host",
    "sysinfo": "smbios",
    "on_poweroff": "events.poweroff",
    "on_reboot": "events.reboot",
    "on_crash": "events.crash",
    "pm": "power",
    "pm/suspend-to-mem/@enabled": "power.suspend_to_mem",
    "pm/suspend-to-disk/@enabled": "power.suspend_to_disk",
    "genid": "generation_id",
    "resource": "partition",
    "resource/partition": "partition",
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
    "mount_opts": "source.mount_options",
    "config_opts": "source.options",
    "backingStore": "backing",
    "backingStore/path": "backing",
    "target/encryption": "encryption",
    "devices/memballoon/@model": "balloon.model",
    "devices/memballoon/stats": "balloon.stats_period_s",
    "devices/memballoon/stats/@period": "balloon.stats_period_s",
    "cputune": "cpu_tune",
    "cputune/shares": "cpu_tune.shares",
    "cputune/period": "cpu_tune.period_us",
    "cputune/quota": "cpu_tune.quota_us",
    "cputune/vcpupin": "cpu_tune.vcpus",
    "cputune/emulatorpin": "cpu_tune.emulator",
    "cputune/emulatorpin/@cpuset": "cpu_tune.emulator",
    "memtune": "memory_tune",
    "memtune/hard_limit": "memory_tune.hard_limit",
    "memtune/soft_limit": "memory_tune.soft_limit",
    "memtune/swap_hard_limit": "memory_tune.swap_hard_limit",
    "numatune": "numa_tune",
    "numatune/memory": "numa_tune",
    "numatune/memory/@mode": "numa_tune.mode",
    "numatune/memory/@nodeset": "numa_tune.nodes",
    "memoryBacking": "memory_backing",
    "memoryBacking/hugepages": "memory_backing.hugepages",
    "memoryBacking/hugepages/page/@size": "memory_backing.hugepages",
    "memoryBacking/source/@type": "memory_backing.source",
    "memoryBacking/access/@mode": "memory_backing.access",
    "memoryBacking/allocation/@mode": "memory_backing.allocation",
    "memoryBacking/allocation/@threads": "memory_backing.threads",
    "sysinfo/@type": "smbios",
    "devices/memballoon/@autodeflate": "balloon.autodeflate",
    "devices/memballoon/@freePageReporting": "balloon.free_page_reporting",
    "devices/rng/@model": "rng",
    "devices/rng/rate": "rng.rate_bytes",
    "devices/rng/rate/@bytes": "rng.rate_bytes",
    "devices/rng/rate/@period": "rng.period_ms",
    "devices/rng/backend": "rng.path",
    "devices/rng/backend/@model": "rng.source",
    "blkiotune": "block_tune",
    "blkiotune/weight": "block_tune.weight",
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
    "hostname": "names",
    "route": "routes",
    "portgroup": "portgroups",
    "txt": "dns.txt",
    "srv": "dns.srv",
    "forwarder": "dns.forwarders",
    "option": "dnsmasq",
    "shmem": "shared_memory",
    "vcpupin": "cpu_tune.vcpus",
    "iothreadpin": "cpu_tune.iothreads",
    "cell": "numa_cells",
    "timer": "clock.timers",
    "entry": "smbios",
}
_PARTS = {
    "disk": {
        "source": "file", "source/@file": "file", "source/@dev": "block", "target/@bus": "bus", "target/@dev": "dev",
        "driver/@type": "type", "driver/@cache": "cache", "driver/@io": "io", "driver/@discard": "discard",
        "driver/@iothread": "iothread", "driver/@queues": "queues", "driver/@detect_zeroes": "detect_zeroes",
        "@device": "device", "boot": "boot_order", "boot/@order": "boot_order",
    },
    "drive": {"source": "medium", "source/@file": "medium", "target/@bus": "bus", "target/@dev": "dev",
              "target/@tray": "tray", "driver/@type": "type", "@device": "device",
              "boot": "boot_order", "boot/@order": "boot_order",
              "source/@startupPolicy": "startup_policy"},
    "vcpupin": {"@cpuset": "cpus"},
    "iothreadpin": {"@cpuset": "cpus"},
    "filesystem": {"source/@dir": "file", "target/@dir": "dev"},
    "interface": {
        "source/@network": "network", "source/@bridge": "bridge", "source/@portgroup": "portgroup",
        "mac/@address": "mac", "model/@type": "model", "model": "model", "mtu/@size": "mtu", "link/@state": "link",
        "target/@dev": "dev", "boot": "boot_order", "boot/@order": "boot_order", "@type": "kind", "link": "link",
        "filterref": "filter",
        "filterref/@filter": "filter",
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


def in_words(field: str, value: Any, absent: str = "nothing") -> str:
    """Return a value as people read it; ``absent`` for None."""
    if value is None:
        return absent
    return human_size(int(value)) if field.rpartition(".")[2] in _BYTES and str(value).isdigit() else str(value)
