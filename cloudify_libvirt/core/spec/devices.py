"""What a user may ask for of small devices: TPM, watchdog, random numbers, vsock, shares, balloon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cloudify_libvirt.core import units
from cloudify_libvirt.core.spec.base import AbsolutePath, Flag, Line, Part, Positive, Size, Uuid, missing
from cloudify_libvirt.core.spec.fields import option, shorthand, switched, within

# Source: vhost_vsock, the kernel's; 0 to 2 have meanings of their own
_CONTEXT_ID = within(3, 2**32 - 2)


class Tpm(Part):
    """A TPM of the guest's own, kept by swtpm on the host."""

    model: Literal["tpm-crb", "tpm-tis", "tpm-spapr"] = Field(default="tpm-crb", description="Model.")
    version: Literal["1.2", "2.0"] = Field(default="2.0", description="Version; 1.2 is for tpm-tis.")
    persistent: Flag | None = option("Keep its state when the domain is undefined.")
    encryption_secret: Uuid | None = option("Secret of libvirt that its state is encrypted with.")
    banks: tuple[Literal["sha1", "sha256", "sha384", "sha512"], ...] = Field(
        default=(), description="PCR banks that are active."
    )

    @model_validator(mode="after")
    def _fits(self) -> Tpm:
        if self.version == "1.2" and (self.model != "tpm-tis" or self.banks):
            raise missing("version", "version 1.2 has the model tpm-tis, and no choice of banks")
        return self


class Watchdog(Part):
    """A device that acts when the guest no longer answers it."""

    model: Literal["i6300esb", "ib700", "diag288"] = Field(default="i6300esb", description="Model.")
    action: Literal["reset", "shutdown", "poweroff", "pause", "none", "dump", "inject-nmi"] = Field(
        default="reset", description="What it does."
    )


class Rng(Part):
    """A source of random numbers."""

    source: Literal["random", "builtin"] = Field(default="random", description="random: a device of the host.")
    path: AbsolutePath | None = option("Device of the host; /dev/urandom when absent.")
    rate_bytes: Positive | None = option("Most bytes in a period.")
    period_ms: Positive | None = option("Period of rate_bytes; a second when absent.")

    @model_validator(mode="after")
    def _fits(self) -> Rng:
        if self.path and self.source == "builtin":
            raise missing("path", "builtin needs no device of the host")
        if self.period_ms and not self.rate_bytes:
            raise missing("rate_bytes", "a period needs its bytes")
        return self


def _cid(value: object) -> Any:
    return value if value == "auto" else _CONTEXT_ID(value)


class Vsock(Part):
    """Sockets between host and guest."""

    cid: Annotated[Literal["auto"] | int, BeforeValidator(_cid)] = Field(
        default="auto", description="Number of the guest, 3 or more; auto: a free one."
    )


class Balloon(Part):
    """How the guest gives memory back."""

    model: Literal["virtio", "none"] = Field(default="virtio", description="Model; none: no balloon.")
    autodeflate: Flag | None = option("Take memory back before the guest kills a process for lack of it.")
    free_page_reporting: Flag | None = option("The guest tells which pages it does not use.")
    stats_period_s: Positive | None = option("Seconds between two reports of the guest.")


class Filesystem(Part):
    """A directory of the host that the guest mounts."""

    source: AbsolutePath = Field(description="Directory of the host.")
    target: Annotated[Line, Field(max_length=36)] = Field(
        description="Tag: mount -t virtiofs TAG /mnt, or mount -t 9p -o trans=virtio TAG /mnt."
    )
    driver: Literal["virtiofs", "9p"] = Field(default="virtiofs", description="virtiofs or 9p.")
    readonly: Flag = Field(default=False, description="The guest cannot write; 9p only.")
    access: Literal["passthrough", "mapped", "squash"] | None = option("Whose the files are; 9p has mapped and squash.")
    queue_size: Positive | None = option("Requests in flight, of virtiofs.")
    cache: Literal["none", "always"] | None = option("What the guest keeps, of virtiofs.")
    xattr: Flag | None = option("Extended attributes, of virtiofs.")
    posix_locks: Flag | None = option("Locks hold on the host, of virtiofs.")
    flock: Flag | None = option("Locks by flock hold on the host, of virtiofs.")
    sandbox: Literal["namespace", "chroot"] | None = option("How virtiofsd is confined.")
    binary: AbsolutePath | None = option("virtiofsd; that of the host when absent.")
    file_mode: Line | None = option("Mode of new files, as in 0644, with access: mapped of 9p.")
    directory_mode: Line | None = option("Mode of new directories, with access: mapped of 9p.")
    multidevs: Literal["default", "remap", "forbid", "warn"] | None = option("File systems below source, of 9p.")

    @model_validator(mode="after")
    def _of_its_driver(self) -> Filesystem:
        virtiofs = ("queue_size", "cache", "xattr", "posix_locks", "flock", "sandbox", "binary")
        foreign = ("file_mode", "directory_mode", "multidevs") if self.driver == "virtiofs" else virtiofs
        for name in foreign:
            if getattr(self, name) is not None:
                raise missing(name, f"driver: {self.driver} has no {name}")
        if self.driver == "virtiofs" and self.readonly:
            raise missing("readonly", "virtiofs cannot; mount it with -o ro in the guest, or use driver: 9p")
        if self.driver == "virtiofs" and self.access not in (None, "passthrough"):
            raise missing("access", "virtiofs has access: passthrough only")
        return self


class Iommu(Part):
    """An IOMMU of the guest."""

    model: Literal["intel", "smmuv3", "virtio"] = Field(description="Model.")
    interrupt_remapping: Flag | None = option("Interrupt remapping, of intel.")
    caching_mode: Flag | None = option("For devices that are passed through, of intel.")
    device_tlb: Flag | None = option("TLBs in devices, of intel.")


class SharedMemory(Part):
    """Memory that several guests of a host share."""

    name: Line = Field(description="Name; the same in every guest.")
    size: Size = Field(description="Size with its unit, a power of 2.")
    role: Literal["master", "peer"] | None = option("master: the memory goes along when the guest is migrated.")


def _tpm(value: object) -> object:
    if isinstance(value, Mapping):
        return value
    return {} if value == "emulator" or units.read_bool(value) else None


TpmField = Annotated[Tpm | None, BeforeValidator(_tpm)]
WatchdogField = Annotated[Watchdog, shorthand("action")]
RngField = Annotated[Rng, shorthand("source")]
VsockField = Annotated[Vsock | None, switched(cid="auto")]
BalloonField = Annotated[Balloon, shorthand("model")]
IommuField = Annotated[Iommu, shorthand("model")]
