"""A host without libvirt: everything imports, and only what needs libvirt says what is missing."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_LIBVIRT = """
import sys
sys.modules["libvirt"] = sys.modules["libvirtmod"] = None
from cloudify_libvirt import domain_tasks, iso9660_tasks, network_tasks, pool_tasks, volume_tasks
from cloudify_libvirt.core.errors import LibraryMissing
from cloudify_libvirt.core.session import connect
try:
    connect("test:///default")
except LibraryMissing as error:
    print(error.retryable, error)
"""


def test_without_libvirt() -> None:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_LIBVIRT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("False cannot load the Python module libvirt: "), done.stderr
    assert "apt-get install libvirt0, then pip install libvirt-python" in done.stdout


def test_modules_of_operations_do_not_load_libvirt() -> None:
    code = "import sys; from cloudify_libvirt import domain_tasks; print('libvirt' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
