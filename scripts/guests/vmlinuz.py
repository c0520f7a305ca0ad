"""Debian's generic kernel, made quick to unpack on an emulated processor.

The generic kernel has the drivers (AHCI for CD-ROMs on q35) but is packed with xz: 2.5 s of unpacking under TCG.
The cloud flavour of the same source and version is packed with lz4 (0.2 s) but lacks AHCI. So the generic kernel
is packed with lz4 here and put in the place of the cloud kernel's, behind the unpacking code of the latter.
That code knows two lengths of what it unpacks, which stand side by side in its data. It also knows a
bound for relocation, of the cloud kernel: a kernel made here must be started with "nokaslr".

Source: Documentation/x86/boot.rst (setup header), arch/x86/boot/compressed/mkpiggy.c and misc.c of Linux 6.1.
"""

import lzma
import struct

from .tools import BuildError, run

SETUP_SECTORS = 0x1F1
PAYLOAD_OFFSET = 0x248  # two 32-bit numbers: offset behind the real-mode part, length
INIT_SIZE = 0x260  # memory that unpacking needs
# Room to unpack in place: output >> 8, and slack; see arch/x86/boot/header.S, ZO_z_extra_bytes.
SLACK_BYTES = 0x140000
PAGE = 0x1000
LENGTH_BYTES = 4  # behind the packed kernel stands its unpacked length
XZ_MAGIC = b"\xfd7zXZ\0"
LZ4_MAGIC = b"\x02!L\x18"


def _payload(image: bytes) -> slice:
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    start = (image[SETUP_SECTORS] + 1) * 512 + offset
    return slice(start, start + length)


def _sections(elf: bytes) -> dict[str, slice]:
    offset = struct.unpack_from("<Q", elf, 0x28)[0]
    size, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, offset + number * size) for number in range(count)]
    names = headers[names_index][4]
    return {elf[names + h[0] : elf.index(0, names + h[0])].decode(): slice(h[4], h[4] + h[5]) for h in headers}


def without_type_information(elf: bytes) -> bytes:
    """Blank the BTF section of a kernel: 4 MB that only BPF programs read."""
    found = _sections(elf).get(".BTF")
    if not found:
        return elf
    return elf[: found.start] + bytes(found.stop - found.start) + elf[found.stop :]


def quick(generic: bytes, cloud: bytes) -> bytes:
    """Return a vmlinuz with the generic kernel behind the cloud kernel's unpacking code.

    Raises BuildError when the two are not built as described above.
    """
    packed = generic[_payload(generic)]
    place = _payload(cloud)
    if not packed.startswith(XZ_MAGIC) or not cloud[place].startswith(LZ4_MAGIC):
        raise BuildError("the kernels are not packed with xz (generic) and lz4 (cloud)")
    kernel = without_type_information(lzma.LZMADecompressor().decompress(packed))
    packed = run("lz4", "-l", "-9", "-c", "-q", stdin=kernel, doing="pack the kernel") + struct.pack("<I", len(kernel))
    room = place.stop - place.start
    if len(packed) > room:
        raise BuildError(f"the packed kernel has {len(packed)} bytes, its place only {room}")
    return _replaced(cloud, place, packed, len(kernel))


def _replaced(image: bytes, place: slice, packed: bytes, unpacked_bytes: int) -> bytes:
    room = place.stop - place.start
    behind = image[place.stop :]
    lengths = struct.pack("<I", room) + image[place.stop - LENGTH_BYTES : place.stop]
    if behind.count(lengths) != 1:
        raise BuildError(f"the lengths in the unpacking code stand there {behind.count(lengths)} times, not once")
    behind = behind.replace(lengths, struct.pack("<II", len(packed), unpacked_bytes))
    made = bytearray(image[: place.start] + packed.ljust(room, b"\0") + behind)
    struct.pack_into("<I", made, PAYLOAD_OFFSET + 4, len(packed))
    memory = unpacked_bytes + (unpacked_bytes >> 8) + SLACK_BYTES
    struct.pack_into("<I", made, INIT_SIZE, (memory + PAGE - 1) & -PAGE)
    return bytes(made)
