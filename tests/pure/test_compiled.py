"""Compiled templates that are kept: the same document without compiling, and nobody else's code is ever run."""

from __future__ import annotations

import marshal
import os
from pathlib import Path

import jinja2
import pytest

from cloudify_libvirt.core.document import compiled, render
from cloudify_libvirt.core.document.compiled import CompiledTemplates
from cloudify_libvirt.core.document.sandbox import BoundedEnvironment

TEXT = "{% for one in range(2) %}<a n='{{ one }}'>{{ text }}</a>{% endfor %}"
WANTED = "<a n='0'>&amp;</a><a n='1'>&amp;</a>"


class Counting(BoundedEnvironment):
    """An environment that says how often it compiled."""

    compilations = 0

    def compile(self, *arguments: object, **named: object) -> object:
        self.compilations += 1
        return super().compile(*arguments, **named)  # type: ignore[call-overload]


def rendered(place: Path, text: str = TEXT, compiler: str = render.__file__) -> int:
    """Render in a new environment, as a new process would; return how often it compiled."""
    kept = CompiledTemplates(compiler, directory=place)
    env = Counting(loader=jinja2.DictLoader({"one.j2": text}), autoescape=True, bytecode_cache=kept)
    assert env.get_template("one.j2").render(text="&") == (WANTED if text == TEXT else text)
    return env.compilations


def test_a_template_is_compiled_once(tmp_path: Path) -> None:
    assert [rendered(tmp_path / "new" / "place") for _ in range(3)] == [1, 0, 0]
    (file,) = (tmp_path / "new" / "place").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700


def test_another_text_and_another_compiler_count_anew(tmp_path: Path) -> None:
    (compiler := tmp_path / "compiler.py").write_text("1")
    place = tmp_path / "place"
    assert rendered(place, compiler=str(compiler)) == 1
    assert rendered(place, "other", str(compiler)) == 1
    assert rendered(place, "other", str(compiler)) == 0
    compiler.write_text("2")
    assert rendered(place, "other", str(compiler)) == 1
    assert len(list(place.iterdir())) == 1, "what does not count any more is replaced"


@pytest.mark.parametrize("damage", ["open to others", "a link", "cut", "changed", "another's code", "a directory"])
def test_what_is_not_surely_ours_is_not_run(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "place"
    rendered(place)
    (file,) = place.iterdir()
    content = file.read_bytes()
    if damage == "open to others":
        file.chmod(0o620)
    elif damage == "a link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "changed":
        file.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    elif damage == "another's code":
        file.write_bytes(content[:32] + marshal.dumps(compile("raise SystemExit('run')", "x", "exec")))
    else:
        file.unlink()
        file.mkdir()
    assert rendered(place) == 1
    # A directory cannot be replaced: it is left, and compiled each time.
    assert rendered(place) == (1 if damage == "a directory" else 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_file_of_another_user_is_not_run(tmp_path: Path) -> None:
    rendered(tmp_path)
    (file,) = tmp_path.iterdir()
    os.chown(file, 65534, 65534)
    assert rendered(tmp_path) == 1


def test_where_nothing_can_be_kept_it_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "place").write_text("no directory")
    assert [rendered(tmp_path / "place") for _ in range(2)] == [1, 1]


def test_who_may_write_nothing_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "keeping", False)
    assert [rendered(tmp_path / "place") for _ in range(2)] == [1, 1]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_draft: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert rendered(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
