"""What the tests of outages share: cfy disturbed at a moment, and what may not differ afterwards."""

from __future__ import annotations

import subprocess
import time

from tests.real import daemon
from tests.real.conftest import PYTHON, ROOT, Cfy, Host, Result

# An upgrade of its packages takes it away for about as long.
GONE = "gone:20"


def disturbed(cfy: Cfy, what: str, moments: str, *arguments: object) -> Result:
    """Run cfy with something done to libvirtd at some moments (cfy_outage.py); it must have come to each of them."""
    begin = time.monotonic()
    call = [PYTHON, "-m", "tests.real.cfy_outage", what, moments, *arguments]
    done = subprocess.run(
        [str(word) for word in call], env=cfy.environment, cwd=ROOT, check=False, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    result = Result(done.returncode, done.stdout, time.monotonic() - begin)
    assert len(result.lines("OUTAGE")) == len(moments.split(",")), result.output[-4000:]
    return result


def survived(cfy: Cfy, what: str, moments: str, *arguments: object) -> Result:
    """Run cfy disturbed; it comes to its end without a user, in one run and in seconds, and says what it waits for."""
    result = disturbed(cfy, what, moments, *arguments)
    assert result.code == 0, result.output[-5000:]
    assert not result.lines("Task failed"), result.output[-5000:]
    assert "Traceback" not in result.output
    if what == GONE:
        print(f"{result.seconds:.1f} s with {moments}")
        assert result.lines("WARNING: lost qemu:///system", "waiting up to 60 s"), result.output[-5000:]
        assert result.seconds > 20
    return result


def host_again() -> Host:
    """The host, when libvirtd is back: the old connection is lost."""
    daemon.start()
    return Host()
