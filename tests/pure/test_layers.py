"""The house rules of docs/architecture.md, held over the syntax tree."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cloudify_libvirt"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(p for p in (ROOT / "scripts").rglob("*.py") if "files" not in p.relative_to(ROOT / "scripts").parts)
ENGINE = ("cloudify", "cloudify_rest_client", "cloudify_cli", "dsl_parser")

# Functions are counted in lines of code: from `def` to the last statement, without the docstring.
MOST_FILE_LINES, MOST_LINES, MOST_LINES_OF_90_PERCENT, MOST_MEDIAN = 400, 50, 25, 8
MOST_OPERATION_LINES = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    """The module's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer(module: str) -> str:
    """The room that a module of the package is in."""
    inside = module.removeprefix("cloudify_libvirt").lstrip(".")
    first = inside.partition(".")[0]
    return "tasks" if first.endswith("_tasks") else first or "package"


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever the import stands; `from a import b` gives a.b too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, Function):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def code_lines(function: Function) -> int:
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    head = function.body[0].lineno - function.lineno
    return head + (0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1)


def within(module: str, *roots: str) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


# What each room may import of our own package. core stands on nothing but core.
ALLOWED = {
    "package": {"package"},
    "core": {"core", "package"},
    "request": {"core", "ctxview", "engine", "record", "package"},
    "record": set[str](),
    "ctxview": set[str](),
    "engine": set[str](),
    "deployments": set[str](),
    "adoption": {"core", "deployments", "engine", "request", "package"},
    "binding": {"adoption", "core", "request", "local_errors", "local_guard", "local_storage", "package"},
    "checking": {"binding", "core", "record", "request", "package"},
    "steps": {"adoption", "core", "steps", "request", "binding", "engine", "package"},
    "planning": {
        "binding",
        "core",
        "deployments",
        "engine",
        "local_hints",
        "local_inputs",
        "planning",
        "record",
        "request",
        "steps",
        "package",
    },
    "tasks": {"core", "steps", "request", "binding", "checking", "package"},
    "workflows": {"core", "local_state", "planning", "request", "workflows", "package"},
    "cli": {"core", "cli", "deployments", "shipped", "package"},
    "shipped": {"package"},
    "runtime_properties": set[str](),
    "dsl": {"core", "package"},
    "scripting": {"core", "record", "request", "binding", "package"},
    "local_resolver": {"shipped", "package"},
    "local_agent": {"package"},
    "local_errors": set[str](),
    "local_remains": set[str](),
    "local_storage": {"local_room", "package"},
    "local_state": {"engine", "local_room", "package"},
    "local_copies": set[str](),
    "local_known": set[str](),
    "local_graph": {"local_known"},
    "local_lines": {"local_known"},
    "local_loggers": set[str](),
    "local_parser": {"local_known"},
    "local_messages": {"local_known"},
    "local_engine": {
        "local_copies",
        "local_graph",
        "local_lines",
        "local_loggers",
        "local_messages",
        "local_parser",
        "local_storage",
        "package",
    },
    "local_guard": {"busy", "local_engine", "local_inputs", "local_remains", "local_retreat", "local_room", "package"},
    "local_retreat": {"busy", "local_hints", "local_room", "package"},
    "local_room": set[str](),
    "local_hints": {"shipped", "package"},
    "local_inputs": set[str](),
    "busy": {"core", "local_room", "package"},
}
# Rooms that know the engine.
ENGINE_ROOMS = {
    "engine", "request", "binding", "checking", "scripting", "local_resolver", "local_agent", "local_errors",
    "local_engine", "local_graph", "local_guard", "local_lines", "local_loggers", "local_parser", "local_state",
    "local_storage", "local_messages", "planning", "workflows",
}  # fmt: skip


def test_the_package_was_found() -> None:
    assert len(FILES) > 30 and len(SCRIPTS) > 5


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    here = layer(name_of(path))
    assert here in ALLOWED, f"{here} is a new room: say here what it may import"
    ours = {module for module in imports(path) if within(module, "cloudify_libvirt")}
    modules = {name_of(file) for file in FILES}
    wrong = {module for module in ours if module in modules and layer(module) not in ALLOWED[here]}
    assert wrong == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_who_knows_the_engine(path: Path) -> None:
    if layer(name_of(path)) not in ENGINE_ROOMS:
        assert [module for module in imports(path) if within(module, *ENGINE)] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_who_knows_libvirt(path: Path) -> None:
    """Only core, and there only through core/driver.py, which loads it at its first use."""
    assert [module for module in imports(path) if within(module, "libvirt")] == []
    if layer(name_of(path)) != "core":
        assert not [module for module in imports(path) if within(module, "cloudify_libvirt.core.driver")]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_one_place_reads_libvirts_errors(path: Path) -> None:
    if name_of(path) == "cloudify_libvirt.core.errors":
        return
    found = [
        node.lineno
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr == "libvirtError")
        or (isinstance(node, ast.Name) and node.id == "libvirtError")
    ]
    assert found == []


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_one_place_sleeps(path: Path) -> None:
    if name_of(path) == "cloudify_libvirt.core.wait" or path in SCRIPTS:
        return
    assert not [module for module in imports(path) if module in ("time.sleep", "asyncio.sleep")]
    sleeps = [n.lineno for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute) and n.attr == "sleep"]
    assert sleeps == []


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_no_broad_except(path: Path) -> None:
    broad = {"Exception", "BaseException"}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type
            names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
            assert caught is not None, f"line {node.lineno}: bare except"
            assert not [n for n in names if isinstance(n, ast.Name) and n.id in broad], f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            assert not [a for a in node.args if isinstance(a, ast.Name) and a.id in broad], f"line {node.lineno}"


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_FILE_LINES


def test_functions_are_short() -> None:
    sizes = {where: code_lines(function) for path in FILES for where, function in functions(path)}
    assert {where: lines for where, lines in sizes.items() if lines > MOST_LINES} == {}
    ordered = sorted(sizes.values())
    assert statistics.median(ordered) <= MOST_MEDIAN
    assert ordered[int(len(ordered) * 0.9)] <= MOST_LINES_OF_90_PERCENT


def test_operations_are_thin() -> None:
    tasks = [path for path in FILES if layer(name_of(path)) == "tasks"]
    assert len(tasks) >= 5
    thick = {
        where: lines
        for path in tasks
        for where, function in functions(path)
        if (lines := code_lines(function)) > MOST_OPERATION_LINES
    }
    assert thick == {}


def is_element(node: ast.AST) -> bool:
    """Whether an expression is what etree's `find` or `getparent` returned: an element, false when childless."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    first = node.args[0] if node.args else None
    path = isinstance(first, ast.Constant | ast.JoinedStr | ast.Attribute)
    return node.func.attr == "getparent" or (node.func.attr == "find" and len(node.args) == 1 and path)


def truth_tests(root: ast.Module) -> Iterator[ast.AST]:
    """Every expression that is asked for its truth."""
    for node in ast.walk(root):
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            yield node.test
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.operand
        elif isinstance(node, ast.comprehension):
            yield from node.ifs


@pytest.mark.parametrize("path", [p for p in FILES if any(within(m, "lxml", "xml") for m in imports(p))], ids=name_of)
def test_elements_are_compared_with_none(path: Path) -> None:
    """An element without children is false: `if root.find(...)` is a trap."""
    root = tree(path)
    for function in (node for node in ast.walk(root) if isinstance(node, Function)):
        elements = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and is_element(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        module = ast.Module(body=[function], type_ignores=[])
        wrong = [
            getattr(test, "lineno", 0)
            for test in truth_tests(module)
            if is_element(test) or (isinstance(test, ast.Name) and test.id in elements)
        ]
        assert wrong == [], f"{function.name}: compare with `is None`"


def test_the_trap_would_be_found() -> None:
    source = (
        "def f(root):\n    found = root.find('a')\n    if found:\n        return 1\n    return root.find('b') or 2\n"
    )
    root = ast.parse(source)
    tests = list(truth_tests(root))
    assert any(isinstance(test, ast.Name) for test in tests) and any(is_element(test) for test in tests)


def test_public_modules_say_what_they_are() -> None:
    assert [name_of(path) for path in FILES if not ast.get_docstring(tree(path))] == []
