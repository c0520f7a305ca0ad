"""Where the key of an encrypted volume is: in the memory of libvirt's daemon, and in nothing that can be read later."""

from __future__ import annotations

import base64
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudify_libvirt import volume_tasks
from tests.real.conftest import Cfy, Host, virsh
from tests.real.nodes import blueprint, empty_domain, node
from tests.real.shelf import MIB, Shelf

CANARY = "canary-7c1e-that-must-not-sing"
FORMS = {CANARY.encode(), base64.b64encode(CANARY.encode()), CANARY.encode().hex().encode()}
PLACES = ("/var/log/libvirt", "/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt")


class Watch:
    """Looks at the command line and the environment of every process, all the time."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.looks = 0
        self.helpers = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                self._look(process)
            self.looks += 1
            time.sleep(0.05)

    def _look(self, process: Path) -> None:
        for kind in ("cmdline", "environ"):
            try:
                said = (process / kind).read_bytes()
            except OSError:
                continue
            self.helpers += kind == "cmdline" and b"qemu-img" in said
            if any(form in said for form in FORMS):
                self.seen.add(f"{kind}: {said!r}")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()


def holders(places: Iterator[Path]) -> list[str]:
    """The files that hold the key in one form or another."""
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    return [str(path) for path in files if any(form in path.read_bytes() for form in FORMS)]


def test_the_key_is_nowhere(cfy: Cfy, host: Host, pools: Shelf, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{CANARY}\n")
    key.chmod(0o600)
    nodes = {
        "vault": node("volume", name="vault", pool="shelf-one", size="8 MiB", format="qcow2",
                      encryption={"passphrase_file": str(key)}),
        "vm": empty_domain("vault", name="vm", disks=[{"pool": "shelf-one", "volume": "vault"}]),
    }  # fmt: skip
    with Watch() as watch:
        result = cfy("install", blueprint(tmp_path, "vault", **nodes), "-b", "vault")
    assert watch.seen == set() and watch.looks > 3 and watch.helpers > 0, "looked while the volume was made"
    assert not any(form in result.output.encode() for form in FORMS)
    assert host.domain("vm").isActive()
    places = [cfy.directory, *map(Path, PLACES)]
    assert holders(iter(place for place in places if place.exists())) == []
    documents = [virsh("dumpxml", "--security-info", "vm"), virsh("vol-dumpxml", "vault", "shelf-one")]
    (uuid,) = (secret.UUIDString() for secret in host.connection.listAllSecrets())
    documents.append(virsh("secret-dumpxml", uuid))
    assert not any(form in text.encode() for form in FORMS for text in documents)
    assert all(uuid in text for text in documents)
    assert "ephemeral='yes' private='yes'" in documents[-1]
    cfy.uninstall("vault")
    assert host.connection.listAllSecrets() == [] and pools.names() == []


def test_a_key_that_others_can_read_is_refused(pools: Shelf, tmp_path: Path, host: Host) -> None:
    key = tmp_path / "key"
    key.write_text(CANARY)
    key.chmod(0o644)
    vault = pools.node("vault", size="8 MiB", encryption={"passphrase_file": str(key)})
    with pytest.raises(Exception, match="others than its owner have rights on") as caught:
        vault.run(volume_tasks.create)
    assert CANARY not in str(caught.value)
    assert pools.names() == [] and host.connection.listAllSecrets() == []


def test_a_copy_is_as_secret_as_its_source(pools: Shelf, host: Host) -> None:
    pools.make("vault", size="8 MiB", encryption={"passphrase": CANARY})
    with pytest.raises(Exception, match="it is encrypted, and its copy would not be"):
        pools.node("copy", source_volume="vault").run(volume_tasks.create)
    with pytest.raises(Exception, match=r"it is encrypted\. Take mode: clone"):
        pools.node("above", source_volume="vault", mode="overlay").run(volume_tasks.create)
    source = {"pool": "shelf-one", "volume": "vault"}
    pools.make("sealed", source_volume=source, pool="shelf-two", encryption={"passphrase": "another"})
    assert "<encryption format='luks'>" in virsh("vol-dumpxml", "sealed", "shelf-two")
    assert len(host.connection.listAllSecrets()) == 2


def test_an_image_is_encrypted_on_its_way_in(pools: Shelf, raw_file: Path, tmp_path: Path) -> None:
    pools.make("vault", file=str(raw_file), encryption={"passphrase": CANARY}, size="20 MiB")
    stored = pools.path("vault").read_bytes()
    assert b"the marker of this test" not in stored and stored.startswith(b"LUKS")
    assert pools.names() == ["vault"], "the plain image that it was made from is gone"
    key, plain = tmp_path / "key", tmp_path / "plain"
    key.write_text(CANARY)
    opened = f"driver=luks,key-secret=key,file.filename={pools.path('vault')}"
    secret = f"secret,id=key,file={key}"
    subprocess.run(["qemu-img", "convert", "--object", secret, "--image-opts", "-O", "raw", opened, plain], check=True)
    # What nobody wrote to is noise, as it is with any LUKS device.
    assert plain.read_bytes()[: 16 * MIB] == raw_file.read_bytes() and plain.stat().st_size == 20 * MIB


def test_a_template_of_ones_own_cannot_leave_the_encryption_out(pools: Shelf, host: Host) -> None:
    vault = pools.node("vault", size="8 MiB", encryption={"passphrase": CANARY})
    bare = "<volume><name>{{ name }}</name><capacity>{{ capacity_bytes }}</capacity><target/></volume>"
    with pytest.raises(Exception, match="the template leaves out the encryption"):
        vault.run(volume_tasks.create, template_content=bare)
    assert pools.names() == [] and host.connection.listAllSecrets() == []
