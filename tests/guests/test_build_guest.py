"""scripts/build-guest, for real: build (or find built), look inside, boot under plain QEMU, log in."""

import contextlib
import io
import json
import random
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
import yaml

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build-guest"
FLATTEN = SCRIPT.parent / "guests" / "files" / "common" / "yaml.awk"
NEEDS = ("qemu-system-x86_64", "qemu-img", "genisoimage", "ssh", "ssh-keygen", "zstd")
MIB = 1 << 20
SECOND_CALL_S = 30.0

pytestmark = pytest.mark.skipif(any(shutil.which(name) is None for name in NEEDS), reason=f"needs {', '.join(NEEDS)}")


def build(kind: str, *options: str) -> Path:
    done = subprocess.run([SCRIPT, kind, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.removesuffix("\n"))
    assert path.is_absolute() and path.is_file()
    return path


@pytest.fixture(scope="module")
def tiny() -> Path:
    return build("tiny")


@pytest.fixture(scope="module")
def container() -> Path:
    return build("container")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "who: me@here", "-f", path], check=True)
    return path


def seed(directory: Path, key: Path, **user_data: object) -> Path:
    """Write an ISO with a user "ops" who has the key and may use sudo."""
    public = key.with_suffix(".pub").read_text().strip()
    ops = {"name": "ops", "ssh_authorized_keys": [public], "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash"}
    files = directory / "seed"
    files.mkdir()
    (files / "meta-data").write_text(json.dumps({"instance-id": "i-1", "local-hostname": "from-seed"}))
    content = {"users": ["default", ops], "ssh_authorized_keys": [public], **user_data}
    (files / "user-data").write_text("#cloud-config\n" + yaml.dump(content))
    iso = directory / "seed.iso"
    subprocess.run(["genisoimage", "-quiet", "-V", "cidata", "-J", "-r", "-o", iso, files], check=True)
    return iso


@dataclass
class Machine:
    """A guest that answers ssh on a port of this machine."""

    process: subprocess.Popen[bytes]
    port: int
    key: Path
    console: Path

    def ssh(self, command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=60"]
        words = [word for option in options for word in ("-o", option)]
        target = ["-q", "-i", str(self.key), "-p", str(self.port), f"{user}@127.0.0.1", command]
        return subprocess.run(["ssh", *words, *target], capture_output=True, text=True, check=False)

    def wait_for_ssh(self, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            assert self.process.poll() is None, f"QEMU ended:\n{self.console.read_text(errors='replace')[-2000:]}"
            if self._has_banner() and self.ssh("true").returncode == 0:
                return
            time.sleep(0.1)
        pytest.fail(f"no ssh within {deadline_s} s; console:\n{self.console.read_text(errors='replace')[-2000:]}")

    def _has_banner(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
            probe.settimeout(0.5)
            return probe.recv(4) == b"SSH-"
        return False


def free_port() -> int:
    """Below those that the kernel gives to whoever asks for any: nobody gets it before QEMU does."""
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


@contextlib.contextmanager
def booted(disk: Path, iso: Path, key: Path, memory_mib: int) -> Iterator[Machine]:
    """Boot as libvirt would set up a q35 machine: the disk on virtio, the seed as a SATA CD-ROM."""
    port, console = free_port(), disk.with_suffix(".console")
    words = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", str(memory_mib), "-display", "none"]
    words += ["-serial", f"file:{console}", "-drive", f"file={disk},if=virtio", "-device", "virtio-rng-pci"]
    words += ["-cdrom", str(iso), "-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{port}-:22"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        yield Machine(process, port, key, console)
    finally:
        process.kill()
        process.wait()


def overlay(base: Path, directory: Path, size_mib: int) -> Path:
    path = directory / f"{base.stem}.qcow2"
    size = str(size_mib * MIB)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path, size], check=True)
    return path


@pytest.mark.parametrize("kind", ["tiny", "container"])
def test_second_call_is_quick_and_gives_the_same_path(kind: str) -> None:
    first = build(kind)
    made = first.stat()
    start = time.monotonic()
    assert build(kind) == first
    assert time.monotonic() - start < SECOND_CALL_S
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns), "not built again"


def test_a_touched_file_is_compared_and_a_damaged_one_is_built_again(container: Path, tmp_path: Path) -> None:
    name = container.name
    for file in (container, container.with_name(name + ".json"), container.with_name("container.current.json")):
        shutil.copy(file, tmp_path)
    copy = tmp_path / name
    sound = copy.read_bytes()
    assert build("container", "--cache", str(tmp_path)) == copy
    assert copy.read_bytes() == sound
    copy.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    rebuilt = build("container", "--cache", str(tmp_path))
    assert rebuilt == copy
    assert list_names(rebuilt) == list_names(container)


def test_two_at_once_build_one(tmp_path: Path) -> None:
    words = [SCRIPT, "container", "--cache", tmp_path]
    builders = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [builder.communicate() for builder in builders]
    assert answers[0][0] == answers[1][0] != ""
    assert sum("building" in errors for _, errors in answers) == 1


# Names two guests by what is in a copy of the scripts: one made of tiny's files, one of container's.
NAMES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from guests import cache, cli
def build(scratch):
    (scratch / "made").touch()
    return scratch / "made"
for one in ("tiny", "container"):
    packages = lambda: sys.argv[3:]
    guest = cache.Guest(one, "", cli.GUESTS[one].sources, packages, lambda: None, build)
    print(cache.obtain(guest, Path(sys.argv[2]), force=False).name)
"""


def test_what_goes_in_makes_the_name(tmp_path: Path) -> None:
    scripts, file = tmp_path / "scripts", tmp_path / "scripts/guests/files/tiny/start"
    shutil.copytree(SCRIPT.parent / "guests", scripts / "guests", ignore=shutil.ignore_patterns("__pycache__"))

    def names(cache: str, *packages: str) -> list[str]:
        words = ["/usr/bin/python3", "-c", NAMES, str(scripts), str(tmp_path / cache), *packages]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    first = names("a", "busybox_1 2f", "linux_6 3e")
    file.touch()
    assert names("a", "busybox_1 2f", "linux_6 3e") == names("b", "busybox_1 2f", "linux_6 3e") == first
    assert not set(names("c", "busybox_1 2f", "linux_7 4d")) & set(first), "another package"
    file.write_text(file.read_text() + "# more\n")
    tiny, container = names("a", "busybox_1 2f", "linux_6 3e")
    assert tiny != first[0] and container == first[1], "a file that only tiny has"
    assert names("b", "busybox_1 2f", "linux_6 3e") == [tiny, container]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """A machine without zstd and mmdebstrap, made by a PATH that lacks them."""
    tools = tmp_path / "bin"
    tools.mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from guests import tools\n"
        "tools.SEARCH_PATH = sys.argv[2]\n"
        "try: tools.require(['zstd', 'mmdebstrap'], {'/none/boot.img': 'grub-pc-bin'})\n"
        "except tools.BuildError as error: print(error)\n"
    )
    words = ["/usr/bin/python3", "-c", code, str(SCRIPT.parent), str(tools)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "apt-get install grub-pc-bin mmdebstrap zstd" in said


def test_unusable_cache_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run([SCRIPT, "tiny", "--cache", tmp_path / "file"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    assert done.stdout == ""


def test_tiny_is_a_qcow2_of_128_mib(tiny: Path) -> None:
    said = subprocess.run(["qemu-img", "info", "--output=json", tiny], capture_output=True, check=True).stdout
    info = json.loads(said)
    assert info["format"] == "qcow2"
    assert info["virtual-size"] == 128 * MIB
    assert "backing-filename" not in info
    subprocess.run(["qemu-img", "check", "-q", tiny], check=True)


def test_tiny_boots_and_takes_its_seed(tiny: Path, tmp_path: Path, key: Path) -> None:
    iso = seed(
        tmp_path,
        key,
        hostname="web-1",
        write_files=[{"path": "/etc/made/file", "content": "one\n  'two'\n", "permissions": "0640"}],
        runcmd=['echo "ran: $HOME" > /root/ran', ["touch", "/root/a b"]],
    )
    with booted(overlay(tiny, tmp_path, 256), iso, key, 128) as machine:
        machine.wait_for_ssh(600)
        assert machine.ssh("cloud-init status --wait").stdout == "status: done\n"
        assert machine.ssh("hostname").stdout == "web-1\n"
        assert machine.ssh("id -un; sudo -n id -u", user="ops").stdout == "ops\n0\n"
        assert machine.ssh("id -un", user="debian").stdout == "debian\n"
        assert machine.ssh("cat /etc/made/file; stat -c %a /etc/made/file").stdout == "one\n  'two'\n640\n"
        assert machine.ssh("ls /root").stdout == "a b\nran\n"
        assert machine.ssh("cat /sys/block/vda/size").stdout == f"{256 * MIB // 512}\n"
        assert "MARK" in machine.console.read_text(errors="replace")


def list_names(archive: Path) -> list[str]:
    unpacked = subprocess.run(["zstd", "-dcq", archive], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        return tar.getnames()


def test_container_tar(container: Path) -> None:
    names = list_names(container)
    assert "sbin/init" in names
    assert not [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]


def flattened(text: str) -> dict[str, str]:
    words = ["busybox", "awk", "-f", FLATTEN]
    lines = subprocess.run(words, input=text.encode(), capture_output=True, check=True, timeout=10).stdout.decode()
    pairs = (line.split("\t", 1) for line in lines.splitlines())
    return {path: value.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\") for path, value in pairs}


@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox")
@pytest.mark.parametrize("dump", [yaml.dump, json.dumps], ids=["yaml", "json"])
def test_the_guest_reads_yaml_and_json_alike(dump: Callable[[object], str]) -> None:
    content = {
        "users": ["default", {"name": "ops", "ssh_authorized_keys": ["ssh-ed25519 " + "A" * 70 + " who: me@here #1"]}],
        "runcmd": ["echo 'a: b' > /x # no comment", ["sh", "-c", 'echo "$HOME"; exit']],
        "write_files": [{"content": "#!/bin/sh\n\techo é\n\n  deep\n", "path": "/a b"}, {"content": "", "path": "/e"}],
    }
    found = flattened("#cloud-config\n" + dump(content))
    assert found["users/0"] == "default"
    assert found["users/1/ssh_authorized_keys/0"] == "ssh-ed25519 " + "A" * 70 + " who: me@here #1"
    assert found["runcmd/0"] == "echo 'a: b' > /x # no comment"
    assert found["runcmd/1/2"] == 'echo "$HOME"; exit'
    assert found["write_files/0/content"] == "#!/bin/sh\n\techo é\n\n  deep\n"
    assert found["write_files/1/content"] == ""


@pytest.mark.slow
def test_debian_boots_and_takes_its_seed(tmp_path: Path, key: Path) -> None:
    iso = seed(tmp_path, key, hostname="deb-1", runcmd=["touch /root/ran"])
    with booted(overlay(build("debian"), tmp_path, 3072), iso, key, 768) as machine:
        machine.wait_for_ssh(1200)
        assert machine.ssh("hostname", user="ops").stdout == "deb-1\n"
        assert "status: done" in machine.ssh("cloud-init status --wait", user="ops").stdout
        assert machine.ssh("sudo -n ls /root", user="ops").stdout == "ran\n"
        size_kib = int(machine.ssh("df -k / | awk 'NR == 2 { print $2 }'").stdout)
        assert size_kib > 2600 * 1024, "the root file system did not grow with the disk"
