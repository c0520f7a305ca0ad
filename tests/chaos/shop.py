"""A user's home with a blueprint in it, and cfy run there: undisturbed, or killed at a chosen point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import yaml

from tests.chaos.fuse import BALLAST
from tests.chaos.world import IMAGES, World, look

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv/bin/python"
DEPLOYMENT = "cluster"
LIBVIRT = ("/etc/libvirt", "/var/lib/libvirt")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAkC test"


@dataclass(frozen=True)
class Harm:
    """What is done to a run of cfy at one of its points, from 1: it is killed, or its disk is full from then on.

    ``during_s``: kill that long after a changing call of libvirt began; None: when it has returned.
    """

    at: int = 0
    during_s: float | None = None
    full: bool = False


@dataclass
class Run:
    """How a run of cfy ended: its exit code (-9: killed), what it said, its points; whether it came to harm."""

    code: int
    said: str
    points: list[str]
    harmed: bool = False

    @property
    def tail(self) -> str:
        return self.said[-3000:]


@dataclass
class Shop:
    """One user's home, and a nursery that runs cfy in it; ``aside``: what is written there has always room."""

    home: Path
    image: Path
    machines: int
    aside: Path
    nursery: Any = None
    runs: int = 0
    values: dict[str, Any] = field(default_factory=dict)

    def cfy(self, *arguments: object, harm: Harm | None = None) -> Run:
        """Run cfy, harmed at a point or not; afterwards there is room again."""
        trace, said, harm = self.aside / "trace", self.aside / "said", harm or Harm()
        order = {"arguments": list(map(str, arguments)), "trace": str(trace), "said": str(said), "at": harm.at,
                 "during_s": harm.during_s, "full": str(self.home) if harm.full else None}  # fmt: skip
        self.nursery.stdin.write(json.dumps(order) + "\n")
        self.nursery.stdin.flush()
        code = os.waitstatus_to_exitcode(int(self.nursery.stdout.readline()))
        self.runs += 1
        harmed = (self.home / BALLAST).exists() if harm.full else code == -9
        (self.home / BALLAST).unlink(missing_ok=True)
        return Run(code, said.read_text(errors="replace"), trace.read_text(errors="replace").splitlines(), harmed)

    def well(self, *arguments: object) -> Run:
        """Run cfy undisturbed; it must succeed."""
        run = self.cfy(*arguments)
        assert run.code == 0, f"cfy {' '.join(map(str, arguments))} failed: {run.tail}"
        return run

    def world(self) -> World:
        return look(self.home, DEPLOYMENT)

    @property
    def blueprints(self) -> dict[str, Path]:
        return {name: self.home / f"blueprint/{name}.yaml" for name in ("cluster", "changed", "larger")}

    @property
    def install(self) -> tuple[object, ...]:
        return ("install", self.blueprints["cluster"], "-b", DEPLOYMENT, "-i", self.home / "inputs.yaml")

    @property
    def state(self) -> list[Path]:
        """Where cfy keeps what it knows of the deployment."""
        local = self.home / ".cloudify/profiles/local"
        return [local / "blueprints" / DEPLOYMENT, local / "deployments" / DEPLOYMENT]

    def prepare(self) -> None:
        """Write the blueprint, whose guests are not waited for, two changed ones, and inputs.

        What changes is declared in each of them: what a blueprint does not name any more, an update leaves as it is.
        """
        document = yaml.safe_load((ROOT / "blueprints/cluster.yaml").read_text())
        machine = document["node_templates"]["machine"]["properties"]
        machine["params"].update(wait_for_ip=False, shutdown_timeout_s=0, description="as it was", max_vcpu=1)
        machine["backup_dir"] = str(self.home / "backups")
        (self.home / "blueprint").mkdir(exist_ok=True)
        self.blueprints["cluster"].write_text(yaml.safe_dump(document))
        machine["params"]["max_vcpu"] = 2
        self.blueprints["larger"].write_text(yaml.safe_dump(document))
        machine["params"].update(description="changed", max_vcpu=1)
        document["node_templates"]["network"]["properties"]["params"]["autostart"] = False
        self.blueprints["changed"].write_text(yaml.safe_dump(document))
        given = {"image": str(self.image), "ssh_public_key": KEY, "ssh_user": "root", "memory": "32 MiB",
                 "machines": self.machines, "disk": "8 MiB", **self.values}  # fmt: skip
        (self.home / "inputs.yaml").write_text(yaml.safe_dump(given))

    def forget(self) -> None:
        """Remove what cfy keeps of the deployment, as by hand."""
        for directory in self.state:
            shutil.rmtree(directory, ignore_errors=True)

    def sweep(self) -> None:
        """Remove everything from the host, after a failure, so that it fails nothing else."""
        connection = libvirt.open("qemu:///system")
        for domain in connection.listAllDomains():
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            )
        for one in [*connection.listAllNetworks(), *connection.listAllStoragePools()]:
            if one.name() != "default":
                if one.isActive():
                    one.destroy()
                one.undefine()
        connection.close()
        self.forget()
        for directory in (IMAGES / DEPLOYMENT, self.home / "backups"):
            shutil.rmtree(directory, ignore_errors=True)
        for entry in (self.home / "state").rglob("ledger/*/*.json"):
            entry.unlink()


@contextmanager
def open_shop(home: Path, machines: int = 2, aside: Path | None = None) -> Iterator[Shop]:
    """A shop that can run cfy; the process that runs it ends with the block."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "PYTHONWARNINGS": "ignore",
                   "CLOUDIFY_LIBVIRT_CACHE": str(home / "cache"), "TMPDIR": str(home / "tmp")}  # fmt: skip
    subprocess.run([ROOT / ".venv/bin/cfy-libvirt", "local-setup"], env=environment, check=True, capture_output=True)
    shop = Shop(home, blank(home), machines, aside or home)
    shop.prepare()
    errors = (shop.aside / "nursery.log").open("w")
    with errors, subprocess.Popen(
        [PYTHON, "-m", "tests.chaos.nursery", *shop.blueprints.values()], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
    ) as nursery:  # fmt: skip
        assert nursery.stdout is not None and nursery.stdin is not None
        assert nursery.stdout.readline() == "ready\n", (shop.aside / "nursery.log").read_text()
        shop.nursery = nursery
        yield shop
        nursery.stdin.close()


def blank(directory: Path) -> Path:
    """A disk image with data and without a system: its guest starts at once and costs nothing."""
    raw, image = directory / "blank.raw", directory / "blank.qcow2"
    raw.write_bytes(bytes(range(256)) * 1024)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    raw.unlink()
    return image


@contextmanager
def one_small_disk(directory: Path, size: str = "128m") -> Iterator[Path]:
    """Keep what libvirt and cfy write on one small file system, inside a lab; return cfy's place on it.

    Not on it: the daemons' logs and what is in /run.
    """
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "chaos", directory], check=True)
    for number, place in enumerate(LIBVIRT):
        subprocess.run(["cp", "-a", place, directory / str(number)], check=True)
        subprocess.run(["mount", "--bind", directory / str(number), place], check=True)
    try:
        yield directory / "home"
    finally:
        for place in (*LIBVIRT, directory):
            subprocess.run(["umount", "--lazy", place], check=True)
