"""Run a tiny guest under KVM on this machine and say how fast it was; exit code 0 when usable.

Real-mode x86 code counts down in a loop, with one exit to user space per round, as firmware does.
Source: https://docs.kernel.org/virt/kvm/api.html, structures of linux/kvm.h (x86-64).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import sys
import time

_GET_API_VERSION, _CREATE_VM, _GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
_CREATE_VCPU, _RUN = 0xAE41, 0xAE80
_SET_USER_MEMORY_REGION = 0x4020AE46
_SET_REGS, _GET_SREGS, _SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
_SREGS_BYTES, _REGS_WORDS = 0x138, 18
_EXIT_IO, _EXIT_HLT = 2, 5
_EXIT_REASON_OFFSET = 8
_API_VERSION = 12

ROUNDS = 2000
INNER = 2000
# mov cx, ROUNDS; outer: mov bx, INNER; inner: dec bx; jnz inner; out 0x80, al; loop outer; hlt
_CODE = struct.pack("<BHBH", 0xB9, ROUNDS, 0xBB, INNER) + bytes.fromhex("4b75fd e680 e2f6 f4")
# A usable KVM (nested ones included) needs some 10 to 150 ms; software emulation of the CPU far more.
LIMIT_S = 0.75


def _open_guest() -> tuple[int, mmap.mmap, mmap.mmap]:
    """Return the vCPU's descriptor, its run structure and the guest's memory, with the code in place."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(kvm, _GET_API_VERSION) != _API_VERSION:
        raise OSError(f"the KVM API is not version {_API_VERSION}")
    machine = fcntl.ioctl(kvm, _CREATE_VM, 0)
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[: len(_CODE)] = _CODE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, mmap.PAGESIZE, address))
    vcpu = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    size = fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE)
    run = mmap.mmap(vcpu, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    return vcpu, run, memory


def _start_at_zero(vcpu: int) -> None:
    sregs = bytearray(_SREGS_BYTES)
    fcntl.ioctl(vcpu, _GET_SREGS, sregs)
    # struct kvm_segment cs is the first member: base (u64), limit (u32), selector (u16).
    struct.pack_into("<Q", sregs, 0, 0)
    struct.pack_into("<H", sregs, 12, 0)
    fcntl.ioctl(vcpu, _SET_SREGS, bytes(sregs))
    registers = [0] * _REGS_WORDS
    registers[17] = 0x2  # rflags: the bit that is always set
    fcntl.ioctl(vcpu, _SET_REGS, struct.pack(f"<{_REGS_WORDS}Q", *registers))


def run() -> float:
    """Run the guest to its end; return the seconds it took.

    Raises:
        OSError: KVM cannot be opened, or the guest ended in another way than by its last instruction.
    """
    vcpu, state, _memory = _open_guest()
    _start_at_zero(vcpu)
    begin = time.monotonic()
    while True:
        fcntl.ioctl(vcpu, _RUN, 0)
        (reason,) = struct.unpack_from("<I", state, _EXIT_REASON_OFFSET)
        if reason == _EXIT_HLT:
            return time.monotonic() - begin
        if reason != _EXIT_IO:
            raise OSError(f"the test guest ended with KVM exit reason {reason}")


def main() -> int:
    """Print one line on what was seen; return the exit code."""
    if platform.machine() != "x86_64":
        print("KVM is offered (not measured: the probe knows x86-64 only)")  # noqa: T201 - the probe's answer
        return 0
    try:
        seconds = run()
    except OSError as error:
        print(f"KVM is offered, but a test guest does not run: {error}")  # noqa: T201
        return 1
    verdict = "KVM works" if seconds <= LIMIT_S else "KVM is offered, but too slow"
    print(f"{verdict}: a test guest took {seconds * 1000:.0f} ms (limit {LIMIT_S * 1000:.0f} ms)")  # noqa: T201
    return 0 if seconds <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
