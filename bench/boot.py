"""From `cfy install` to an ssh login, against a bare script that does the same with the same guests.

Run it inside a private libvirt host: make bench, or
    scripts/lab --name bench exec env CLOUDIFY_LIBVIRT_LAB=bench .venv/bin/python -m bench.boot
"""

from __future__ import annotations

import argparse
import datetime
import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import orchestration
from bench.figures import Row, median, ms, s, table
from tests.real.conftest import BLUEPRINTS, IMAGES, ROOT, SSH_OPTIONS, Cfy, guest, public_key, virsh

SCRIPT = Path(__file__).with_name("bare.sh")
STATUS_FILES = Path("/var/lib/libvirt/dnsmasq")
HAS_ADDRESS = re.compile(r" LOG .*\[(\S+)\.get_state\] .*has address (\S+) after")
RETURNED = re.compile(r"^(\S+ \S+) +CFY .*\[(\S+)\.get_state\] Task succeeded")
MACHINES = 10


class Leases:
    """Notes when dnsmasq's helper writes each lease, by looking every 5 ms."""

    def __init__(self) -> None:
        self.written: dict[str, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        changed: dict[Path, int] = {}
        while not self._end.wait(0.005):
            for path in STATUS_FILES.glob("*.status"):
                stamp = path.stat().st_mtime_ns
                if changed.get(path) != stamp:
                    changed[path] = stamp
                    self._read(path, stamp / 1e9)

    def _read(self, path: Path, written: float) -> None:
        try:
            entries = json.loads(path.read_text() or "[]")
        except ValueError:
            return
        for entry in entries:
            self.written.setdefault(entry["ip-address"], written)


class Bench:
    """One run's tools, images and samples."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.image = guest("tiny")
        self.key = place / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        home = place / "home"
        home.mkdir()
        self.cfy = Cfy(home)
        local_setup = [ROOT / ".venv/bin/cfy-libvirt", "local-setup"]
        subprocess.run(local_setup, env=self.cfy.environment, check=True, capture_output=True)
        self.latencies: list[float] = []
        self.domain_xml = place / "domain.xml"

    def inputs(self, **more: object) -> dict[str, object]:
        return {"image": str(self.image), "ssh_public_key": public_key(self.key), "ssh_user": "root",
                "memory": "128 MiB", **more}  # fmt: skip

    def product(self, blueprint: Path, name: str, **inputs: object) -> float:
        """Install, log into every machine, and uninstall; return the seconds to the last login."""
        with Leases() as leases:
            begin = time.monotonic()
            result = self.cfy.install(blueprint, name, **self.inputs(**inputs))
            log_in(self.key, self.addresses(name))
            seconds = time.monotonic() - begin
        self.latencies += latencies(result.output, leases.written)
        if not self.domain_xml.exists():
            self.domain_xml.write_text(with_placeholders(virsh("dumpxml", "--inactive", name)))
        self.cfy.uninstall(name)
        return seconds

    def addresses(self, deployment: str) -> list[str]:
        state = Path(self.cfy.environment["HOME"]) / ".cloudify/profiles/local/deployments" / deployment
        found = (json.loads(path.read_text()) for path in (state / "node-instances").glob("*.json"))
        return [entry["runtime_properties"]["ip"] for entry in found if entry["runtime_properties"].get("ip")]

    def bare(self, count: int) -> float:
        """The same with the script; return the seconds to the last login."""
        directory = IMAGES / "bare"
        arguments = [str(count), str(self.image), str(self.key), str(self.domain_xml), str(directory)]
        try:
            begin = time.monotonic()
            done = subprocess.run([SCRIPT, "up", *arguments], capture_output=True, text=True, check=False, timeout=300)
            seconds = time.monotonic() - begin
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.split()) == count
            return seconds
        finally:
            subprocess.run([SCRIPT, "down", str(count), str(directory)], check=True)

    def start_up(self, count: int = 1) -> float:
        """cfy's own time: the same kind of install with operations that do nothing."""
        directory = Path(tempfile.mkdtemp(dir=self.place))
        blueprint = orchestration.write_blueprint("noop", count, directory)
        self.cfy.environment["PYTHONPATH"] = str(ROOT)
        seconds = self.cfy("install", blueprint, "-b", directory.name).seconds
        del self.cfy.environment["PYTHONPATH"]
        shutil.rmtree(directory)
        return seconds


def log_in(key: Path, addresses: list[str]) -> None:
    """Log into each machine, as the script does: one after the other, a tenth of a second between attempts."""
    assert addresses
    for address in addresses:
        call = ["ssh", "-i", str(key), *SSH_OPTIONS, f"root@{address}", "hostname"]
        while subprocess.run(call, capture_output=True, check=False).returncode:
            time.sleep(0.1)


def latencies(output: str, written: dict[str, float]) -> list[float]:
    """Return the seconds between each lease's file and the return of the operation that waited for the address."""
    found = []
    known: dict[str, str] = {}
    for line in output.splitlines():
        if told := HAS_ADDRESS.search(line):
            known[told[1]] = told[2]
        if (returned := RETURNED.match(line)) and returned[2] in known:
            end = datetime.datetime.fromisoformat(returned[1]).replace(tzinfo=datetime.UTC).timestamp()
            found.append(end - written[known.pop(returned[2])])
    assert found and not known, output
    return found


def with_placeholders(xml: str) -> str:
    """Return a domain's definition with a mark wherever guests differ, and without our metadata."""
    xml = re.sub("<metadata>.*?</metadata>", "", xml, flags=re.DOTALL)
    xml = re.sub("<name>.*?</name>", "<name>@NAME@</name>", xml, count=1)
    xml = re.sub("<uuid>.*?</uuid>", "<uuid>@UUID@</uuid>", xml, count=1)
    xml = re.sub("<log file='[^']*'", "<log file='/var/log/libvirt/qemu/@NAME@-console.log'", xml)
    xml = re.sub("<mac address='[^']*'", "<mac address='@MAC@'", xml)
    xml = re.sub("<source network='[^']*'", "<source network='@NETWORK@'", xml)
    xml = re.sub("'[^']*-root.qcow2'", "'@ROOT@'", xml)
    return re.sub("'[^']*-seed.iso'", "'@SEED@'", xml)


@contextmanager
def served(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a directory on this host; yield its URL and the list of downloads (answers with a body)."""
    sent: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            sent.append(self.path)
            super().copyfile(source, outputfile)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()


def overlays(image: Path, count: int = 11) -> list[float]:
    """Return the seconds of each overlay but the first, which brings the base image into the pool."""
    from cloudify_libvirt.core.image.cache import ImageCache
    from cloudify_libvirt.core.pool import Pool
    from cloudify_libvirt.core.session import connect
    from cloudify_libvirt.core.storage import bases as storage

    session, name = connect("qemu:///system"), "bench"
    xml = f"<pool type='dir'><name>{name}</name><target><path>{IMAGES}/{name}</path></target></pool>"
    handle = session.connection.storagePoolDefineXML(xml)
    pool = Pool(session, handle)
    pool.build()
    pool.start()
    fetched, seconds, ours = ImageCache().fetch(str(image)), [], storage.Claim(False, lambda: None)
    try:
        for number in range(count):
            begin = time.monotonic()
            storage.overlay(pool, storage.Wish(f"overlay-{number}.qcow2"), fetched, ours)
            seconds.append(time.monotonic() - begin)
    finally:
        for number in range(count):
            storage.remove(pool, f"overlay-{number}.qcow2")
        pool.stop()
        pool.delete_target()
        pool.undefine()
    return seconds[1:]


def hello_rows(bench: Bench, rounds: int) -> tuple[list[Row], dict[str, float]]:
    """Measure one machine."""
    taken: dict[str, list[float]] = {"cfy": [], "script": [], "start-up": []}
    for _ in range(rounds):
        taken["cfy"].append(bench.product(BLUEPRINTS / "hello.yaml", "hello"))
        taken["script"].append(bench.bare(1))
        taken["start-up"].append(bench.start_up())
    middle = {kind: median(values) for kind, values in taken.items()}
    allowed = middle["script"] + middle["start-up"]
    compared = f"script {s(middle['script'])} + cfy's start-up {s(middle['start-up'])}"
    row = Row(f"hello: install to ssh login (median of {rounds})", s(middle["cfy"]), compared,
              middle["cfy"] / allowed, 1.1)  # fmt: skip
    return [row], middle


def cluster_rows(bench: Bench, rounds: int, one: dict[str, float]) -> list[Row]:
    """Measure ten machines; the first install takes its image from a URL and counts the downloads."""
    with served(bench.image.parent) as (url, sent):
        bench.product(BLUEPRINTS / "cluster.yaml", "cluster", machines=MACHINES, disk="256 MiB",
                      image=f"{url}/{bench.image.name}")  # fmt: skip
        downloads = len(sent)
    single, many, bare = [], [], []
    for _ in range(rounds):
        single.append(bench.product(BLUEPRINTS / "cluster.yaml", "cluster", machines=1, disk="256 MiB"))
        many.append(bench.product(BLUEPRINTS / "cluster.yaml", "cluster", machines=MACHINES, disk="256 MiB"))
        bare.append(bench.bare(MACHINES))
    ours, theirs = median(many) / median(single), median(bare) / one["script"]
    return [
        Row(f"cluster: {MACHINES} machines against 1 (medians of {rounds})",
            f"{s(median(many))} / {s(median(single))} = {ours:.2f}",
            f"script {s(median(bare))} / {s(one['script'])} = {theirs:.2f}", ours / theirs, 1.3),
        Row(f"image: downloads for {MACHINES} machines from one URL", str(downloads), "1", float(downloads), 1.0),
    ]  # fmt: skip


def latency_rows(seconds: list[float]) -> list[Row]:
    """Compare the waits with the promise: 200 ms."""
    middle, most = median(seconds), max(seconds)
    what = f"lease written to operation returned, {len(seconds)} boots"
    return [Row(f"{what}, p50", ms(middle), "200 ms", middle / 0.2, 1.0),
            Row(f"{what}, max", ms(most), "200 ms", most / 0.2, 1.0)]  # fmt: skip


def overlay_rows(image: Path) -> list[Row]:
    """Measure the volumes above an image that the pool has."""
    seconds = overlays(image)
    middle = median(seconds)
    return [Row(f"overlay of an image (median of {len(seconds)})", ms(middle), "100 ms", middle / 0.1, 1.0)]


def measure(rounds: int, cluster_rounds: int) -> list[Row]:
    """Return the rows of the table."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{uuid.uuid4().hex[:6]}-") as place:
        bench = Bench(Path(place))
        bench.product(BLUEPRINTS / "hello.yaml", "hello")  # warm, and brings the definition for the script
        bench.latencies.clear()
        hello, one = hello_rows(bench, rounds)
        cluster = cluster_rows(bench, cluster_rounds, one) if cluster_rounds else []
        return [*hello, *cluster, *latency_rows(bench.latencies), *overlay_rows(bench.image)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cluster-rounds", type=int, default=5)
    options = parser.parse_args()
    rows = measure(options.rounds, options.cluster_rounds)
    print(table(rows))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
