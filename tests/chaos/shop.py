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

from tests.chaos.world import IMAGES, World, look

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv/bin/python"
DEPLOYMENT = "cluster"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAkC test"


@dataclass
class Run:
    """How a run of cfy ended: its exit code (-9: killed), what it said, its points."""

    code: int
    said: str
    points: list[str]

    @property
    def killed(self) -> bool:
        return self.code == -9

    @property
    def tail(self) -> str:
        return self.said[-3000:]


@dataclass
class Shop:
    """One user's home, and a nursery that runs cfy in it."""

    home: Path
    image: Path
    machines: int
    nursery: Any = None
    runs: int = 0
    values: dict[str, Any] = field(default_factory=dict)

    def cfy(self, *arguments: object, at: int = 0, during_s: float | None = None) -> Run:
        """Run cfy, killed at a point or not."""
        trace, said = self.home / "trace", self.home / "said"
        order = {"arguments": list(map(str, arguments)), "trace": str(trace), "said": str(said), "at": at,
                 "during_s": during_s}  # fmt: skip
        self.nursery.stdin.write(json.dumps(order) + "\n")
        self.nursery.stdin.flush()
        code = os.waitstatus_to_exitcode(int(self.nursery.stdout.readline()))
        self.runs += 1
        return Run(code, said.read_text(errors="replace"), trace.read_text(errors="replace").splitlines())

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
def open_shop(home: Path, machines: int = 2) -> Iterator[Shop]:
    """A shop that can run cfy; the process that runs it ends with the block."""
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "PYTHONWARNINGS": "ignore",
                   "CLOUDIFY_LIBVIRT_CACHE": str(home / "cache")}  # fmt: skip
    subprocess.run([ROOT / ".venv/bin/cfy-libvirt", "local-setup"], env=environment, check=True, capture_output=True)
    shop = Shop(home, blank(home), machines)
    shop.prepare()
    errors = (home / "nursery.log").open("w")
    with errors, subprocess.Popen(
        [PYTHON, "-m", "tests.chaos.nursery", *shop.blueprints.values()], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
    ) as nursery:  # fmt: skip
        assert nursery.stdout is not None and nursery.stdin is not None
        assert nursery.stdout.readline() == "ready\n", (home / "nursery.log").read_text()
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
