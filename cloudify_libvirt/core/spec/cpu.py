"""What a user may ask for of a domain's CPUs: model, topology, NUMA cells, pinning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cloudify_libvirt.core.spec.base import Count, Flag, Line, Part, Positive, Size, missing
from cloudify_libvirt.core.spec.fields import CpuSet, option, shorthand

NumaMode = Literal["strict", "preferred", "interleave", "restrictive"]


class CpuFeature(Part):
    """A feature of the CPU, as the guest sees it."""

    name: Line = Field(description="Name, as in aes.")
    policy: Literal["force", "require", "optional", "disable", "forbid"] = Field(
        default="require", description="What holds where the host has it, or has not."
    )


class Topology(Part):
    """How the vCPUs are laid out."""

    sockets: Positive = Field(default=1, description="Sockets.")
    dies: Positive = Field(default=1, description="Dies of a socket.")
    cores: Positive = Field(default=1, description="Cores of a die.")
    threads: Positive = Field(default=1, description="Threads of a core.")

    @property
    def cpus(self) -> int:
        """The vCPUs that it has places for."""
        return self.sockets * self.dies * self.cores * self.threads


class Cpu(Part):
    """The CPU that the guest sees."""

    model: Line | None = option("Model, as in Nehalem; not together with cpu_mode.")
    fallback: Literal["allow", "forbid"] | None = option("allow: a nearby model where the host lacks this one.")
    vendor: Line | None = option("Vendor that the host must have.")
    match: Literal["minimum", "exact", "strict"] | None = option("How the host's CPU must compare with the model.")
    check: Literal["none", "partial", "full"] | None = option("What libvirt compares before the start.")
    migratable: Flag | None = option("Leave out features that hinder migration; with host-passthrough.")
    features: tuple[Annotated[CpuFeature, shorthand("name")], ...] = Field(
        default=(), description="Features: names, or {name, policy}."
    )
    topology: Topology | None = option("{sockets, dies, cores, threads}; their product is the (maximum of) vCPUs.")
    cache: Literal["emulate", "passthrough", "disable"] | None = option("Caches that the guest sees.")
    cache_level: Literal[1, 2, 3] | None = option("Level that cache speaks of.")
    address_bits: Positive | None = option("Bits of a physical address.")


class NumaDistance(Part):
    """How far another cell is; 10 is the cell itself."""

    cell: Count = Field(description="Number of the other cell.")
    value: Annotated[int, Field(ge=10, le=255)] = Field(description="Distance, 10 to 255.")


class NumaCell(Part):
    """A NUMA cell of the guest."""

    cpus: CpuSet = Field(description="vCPUs, as in 0-1.")
    memory: Size = Field(description="Memory with its unit; the cells together have the domain's.")
    shared: Flag | None = option("Other processes may map the memory.")
    discard: Flag | None = option("Give the memory's content up when the guest ends.")
    distances: tuple[NumaDistance, ...] = Field(default=(), description="[{cell, value}].")
    host_nodes: CpuSet | None = option("Nodes of the host that its memory comes from.")
    mode: NumaMode = Field(default="strict", description="How host_nodes bind.")


class NumaTune(Part):
    """Nodes of the host that the memory comes from."""

    mode: NumaMode | None = option("How they bind; strict when absent.")
    nodes: CpuSet | None = option("Nodes of the host; chosen by numad when absent.")


class Pin(Part):
    """CPUs of the host on which a vCPU or an I/O thread runs."""

    id: Count = Field(description="Number of the vCPU (from 0) or of the I/O thread (from 1).")
    cpus: CpuSet = Field(description="CPUs of the host.")


class CpuTune(Part):
    """Where the vCPUs run, and how much of the host's time they have."""

    cpus: CpuSet | None = option("CPUs of the host for the domain as a whole.")
    vcpus: tuple[Pin, ...] = Field(default=(), description="CPUs of the host for single vCPUs: [{id, cpus}].")
    emulator: CpuSet | None = option("CPUs of the host for QEMU's own threads.")
    iothreads: tuple[Pin, ...] = Field(default=(), description="CPUs of the host for I/O threads: [{id, cpus}].")
    shares: Annotated[int, Field(ge=2, le=262144)] | None = option("Weight against other domains.")
    period_us: Annotated[int, Field(ge=1000, le=1000000)] | None = option("Period of quota_us.")
    quota_us: Annotated[int, Field(ge=1000)] | None = option("Time of a vCPU in each period.")

    @model_validator(mode="after")
    def _pinned_once(self) -> CpuTune:
        for name in ("vcpus", "iothreads"):
            ids = [pin.id for pin in getattr(self, name)]
            if len(set(ids)) < len(ids):
                raise missing(name, "the same id is there twice")
        return self
