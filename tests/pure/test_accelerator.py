"""Which accelerator a guest gets, and the probe that measures KVM."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cloudify_libvirt.core.errors import InvalidSpec
from cloudify_libvirt.core.host import accelerator, kvm_probe
from cloudify_libvirt.core.session import Session, connect


def hypervisor(*types: str, uri: str = "qemu:///system", measured: tuple[bool, str] = (True, "measured")) -> Session:
    """A session that has read capabilities with these domain types, and measured KVM, before."""
    domains = "".join(f"<domain type='{name}'/>" for name in types)
    session = Session(uri, connect("test:///default").connection)
    session._facts["capabilities"] = f"<capabilities><guest><arch>{domains}</arch></guest></capabilities>"
    session._facts["kvm probe"] = measured
    return session


REMOTE = {"uri": "qemu+ssh://host/system"}
SLOW = {"measured": (False, "too slow")}


@pytest.mark.parametrize(
    ("wanted", "types", "more", "domain_type", "cpu_mode", "why"),
    [
        ("auto", ["qemu"], {}, "qemu", "maximum", "the host offers no KVM"),
        ("auto", ["qemu", "kvm"], {}, "kvm", "host-passthrough", "measured"),
        ("auto", ["qemu", "kvm"], SLOW, "qemu", "maximum", "too slow"),
        ("auto", ["qemu", "kvm"], {**SLOW, **REMOTE}, "kvm", "host-passthrough", "not measured: it is remote"),
        ("kvm", ["qemu", "kvm"], SLOW, "kvm", "host-passthrough", "asked for"),
        ("tcg", ["qemu", "kvm"], {}, "qemu", "maximum", "asked for"),
    ],
)
def test_choice(wanted: str, types: list[str], more: dict[str, Any], domain_type: str, cpu_mode: str, why: str) -> None:
    choice = accelerator.choose(hypervisor(*types, **more), wanted)
    assert (choice.domain_type, choice.cpu_mode) == (domain_type, cpu_mode)
    assert why in choice.why


def test_kvm_that_the_host_does_not_offer() -> None:
    with pytest.raises(InvalidSpec, match=r"the host does not offer it.*accelerator: auto"):
        accelerator.choose(hypervisor("qemu"), "kvm")


def test_a_hypervisor_that_was_asked_nothing_yet() -> None:
    assert accelerator.choose(connect("test:///default"), "auto").why == "the host offers no KVM"


def test_the_probe_answers_in_time_and_its_answer_is_consistent() -> None:
    """On this machine, whatever it is: usable or refused, but never a hang, and never a yes without a measurement."""
    begin = time.monotonic()
    works, why = accelerator.measure()
    assert time.monotonic() - begin < accelerator.PROBE_LIMIT_S + 30
    assert why
    if not accelerator.DEVICE.exists():
        assert (works, why) == (False, f"{accelerator.DEVICE} is missing here")
    elif works:
        took = re.search(r"took (\d+) ms", why)
        assert "not measured" in why or (took and int(took[1]) <= kvm_probe.LIMIT_S * 1000)
    else:
        assert re.search(r"too slow: .* took \d+ ms|did not finish|does not run|probe ended", why), why


def test_the_probe_says_one_line_and_its_exit_code_agrees() -> None:
    command = [sys.executable, "-m", "cloudify_libvirt.core.host.kvm_probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("KVM hangs on this machine; what measure() makes of that is tested above")
    assert len(done.stdout.splitlines()) == 1, done.stderr
    usable = done.stdout.startswith(("KVM works", "KVM is offered (not measured"))
    assert (done.returncode == 0) is usable


def probe_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let `measure` run another program for the probe."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(accelerator, "DEVICE", tmp_path)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_probe_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_that(tmp_path, monkeypatch, "")
    # It is there at once, also on a busy machine.
    (tmp_path / "python").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    begin = time.monotonic()
    works, why = accelerator.measure()
    assert not works and "did not finish within 2 s" in why
    assert time.monotonic() - begin < accelerator.PROBE_LIMIT_S + 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_probe_that_dies_means_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_that(tmp_path, monkeypatch, "os.abort()")
    assert accelerator.measure() == (False, "the KVM probe ended with -6")


def test_the_guests_code_is_what_the_comment_says() -> None:
    """mov cx, 2000; mov bx, 2000; dec bx; jnz -3; out 0x80, al; loop -10; hlt."""
    assert kvm_probe._CODE.hex() == "b9d007bbd0074b75fde680e2f6f4"
