"""What a user may ask for of a domain's memory beyond its size."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from cloudify_libvirt.core import units
from cloudify_libvirt.core.spec.base import Flag, Part, Positive, Size
from cloudify_libvirt.core.spec.fields import option, within

# What a guest takes or gives at once: the block of Linux on x86 with less than 64 GiB. Source:
# https://docs.kernel.org/admin-guide/mm/memory-hotplug.html; arch/x86/mm/init_64.c, memory_block_size_bytes
BLOCK_KIB = 128 * units.KIB
# Source: QEMU, ACPI_MAX_RAM_SLOTS
Dimms = Annotated[int, BeforeValidator(within(1, 256))]


def _page(value: object) -> Any:
    try:
        return units.read_bool(value)
    except ValueError:
        return units.read_size(value)


class MemoryBacking(Part):
    """Where the host takes the guest's memory from."""

    hugepages: Annotated[bool | int, BeforeValidator(_page)] | None = option(
        "true: huge pages of the host's default size; or their size, as in '2 MiB'."
    )
    source: Literal["anonymous", "file", "memfd"] | None = option("What the memory is; memfd where it is shared.")
    access: Literal["shared", "private"] | None = option("shared: other processes, such as virtiofsd, may map it.")
    allocation: Literal["immediate", "ondemand"] | None = option("When the host gives it.")
    threads: Positive | None = option("Threads that allocate, with immediate.")
    locked: Flag | None = option("Never swap it out.")
    merge: Flag | None = option("false: keep the host from merging equal pages.")
    discard: Flag | None = option("Give the content up when the guest ends.")

    @property
    def page_kib(self) -> int | None:
        """The size of a huge page, where one is asked for."""
        asked = self.hugepages
        return None if asked is None or isinstance(asked, bool) else units.to_kib(asked)


class MemoryTune(Part):
    """Bounds of what the host gives to the whole QEMU process, not only the guest."""

    hard_limit: Size | None = option("Most memory; the host kills what exceeds it.")
    soft_limit: Size | None = option("Most memory while others want it too.")
    swap_hard_limit: Size | None = option("Most memory and swap together.")


class BlockTune(Part):
    """The domain's share of the host's disks."""

    weight: Positive | None = option("Weight against other domains, 100 to 1000.")
