"""Blueprints, inputs and stored deployments of local mode, read as cfy reads them; nothing is written.

``parsed(path)`` -> the blueprint's plan; ``prepared(plan, inputs)`` -> the deployment's plan with instances, as
``cfy install`` would make it; ``stored(home, deployment)`` -> what is installed, or None; ``given(texts)`` -> inputs of
a command line. All raise ``CoreError``.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cloudify.workflows import local
from dsl_parser import exceptions, parser, tasks
from dsl_parser.import_resolver.default_import_resolver import DefaultImportResolver
from dsl_parser.utils import ResolverInstantiationError, create_import_resolver

from cloudify_libvirt import deployments, local_hints, local_inputs
from cloudify_libvirt.core.errors import AccessDenied, InvalidSpec, Missing
from cloudify_libvirt.planning.hiding import SECRET, secrets, without
from cloudify_libvirt.planning.unfinished import PENDING_LINKS, SCALING

RESOLVER = "cloudify_libvirt.local_resolver:LocalResolver"
PARSER_ERRORS: tuple[type[Exception], ...] = tuple(
    one for one in vars(exceptions).values() if isinstance(one, type) and issubclass(one, Exception)
)  # fmt: skip
# Of values that are of another type than a function of the DSL takes; the parser lets them through.
VALUE_ERRORS = (KeyError, TypeError, ValueError, RuntimeError)
ENGINE_ERRORS: tuple[type[Exception], ...] = (*PARSER_ERRORS, *VALUE_ERRORS)


@dataclass(frozen=True)
class Stored:
    """A deployment of local mode: its plan, inputs and instances; ``definitions``: the inputs in the blueprint.

    ``blueprint``: the file that it was installed from, which may be gone. ``scaling`` and ``links``: what a workflow
    that did not end has left.
    """

    name: str
    plan: dict[str, Any]
    inputs: dict[str, Any]
    definitions: dict[str, Any]
    instances: list[dict[str, Any]]
    blueprint: str
    scaling: dict[str, Any] | None
    links: dict[str, list[Any]]


def default_name(path: Path) -> str:
    """Return the deployment that cfy makes of a blueprint for which none is named.

    Source: cloudify_cli.blueprint.generate_id
    """
    return path.absolute().parent.name.replace("_", "-")


def resolver() -> DefaultImportResolver:
    """Return what answers imports: as cfy's config.yaml says, else ours."""
    config = Path(deployments.default_home()).parents[1] / "config.yaml"
    section: dict[str, Any] = {}
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None
        section = (found or {}).get("import_resolver") or {}
        return create_import_resolver({"implementation": RESOLVER, **section})
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        AttributeError,
        TypeError,
        ResolverInstantiationError,
    ) as error:
        raise InvalidSpec("read", str(config), str(error), "Mend it: cfy-libvirt local-setup.") from error


@contextmanager
def readable(action: str, target: str, path: Path | None = None) -> Iterator[None]:
    """Turn what the engine's parser raises into an error that says what was read, of ``path``, and what may help."""
    try:
        yield
    except PARSER_ERRORS as error:
        raise InvalidSpec(action, target, _said(error), " ".join(local_hints.hints(str(error), path))) from error
    except VALUE_ERRORS as error:
        raise InvalidSpec(action, target, f"{type(error).__name__}: {_said(error)}") from error
    except ImportError as error:
        raise Missing(action, target, _said(error), "Install the plugin that it is of.") from error


@contextmanager
def unquoted(inputs: Mapping[str, Any], action: str, target: str) -> Iterator[None]:
    """Do as ``readable`` where the parser reads inputs: it quotes values, of which secret ones are not repeated."""
    try:
        with readable(action, target):
            yield
    except InvalidSpec as error:
        reason = without(error.reason, dict.fromkeys(secrets(inputs), SECRET))
        raise InvalidSpec(error.action, error.target, reason, error.remedy) from None


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines) or type(error).__name__


def parsed(path: Path) -> Any:
    """Return the plan of a blueprint, without inputs.

    Raises:
        Missing: there is no such file.
        InvalidSpec: it is not a blueprint.
    """
    target = f"blueprint {path}"
    if not path.is_file():
        raise Missing("read", target, "there is no such file", "Give the path of the blueprint's main file.")
    with readable("read", target, path):
        return parser.parse_from_path(dsl_file_path=str(path), resolver=resolver())


def prepared(plan: Any, inputs: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Return the plan with its inputs and with instances, whose ids are new ones.

    Raises:
        InvalidSpec: an input is missing, unknown, or not what the blueprint wants.
    """
    with unquoted(inputs, "read the inputs of", target):
        found: dict[str, Any] = tasks.prepare_deployment_plan(plan, inputs=local_inputs.typed(plan["inputs"], inputs))
    return found


def stored(home: str, deployment: str) -> Stored | None:
    """Return what is stored of a deployment, or None where there is none."""
    storage = local.FileStorage(home)
    try:
        found = storage.get_deployment(deployment)
        if found is None:
            return None
        blueprint = storage.get_blueprint(found["blueprint_id"]) or {}
        instances = deployments.instances(home, deployment)
    except (OSError, ValueError, KeyError) as error:
        raise AccessDenied("read", f"deployment '{deployment}' in {home}", str(error)) from error
    return Stored(
        name=deployment,
        plan=found["plan"],
        inputs=dict(found.get("inputs") or {}),
        definitions=dict((blueprint.get("plan") or {}).get("inputs") or {}),
        instances=instances,
        blueprint=str(blueprint.get("blueprint_path") or ""),
        scaling=found.get(SCALING),
        links=dict(found.get(PENDING_LINKS) or {}),
    )


def given(texts: Iterable[str]) -> dict[str, Any]:
    """Return inputs as ``cfy -i`` takes them: files, directories or patterns of YAML files, YAML or JSON, a=1;b=2.

    Source: cloudify_cli.inputs.inputs_to_dict, whose import makes directories
    """
    found: dict[str, Any] = {}
    for text in texts:
        for part in _parts(text):
            found.update(part)
    return found


def _parts(text: str) -> Iterator[dict[str, Any]]:
    found = [Path(path) for path in sorted(glob.glob(text))]  # noqa: PTH207 - the pattern may be absolute
    paths = sorted(Path(text).iterdir()) if Path(text).is_dir() else found
    for path in paths:
        yield _mapping(_read(path), f"inputs file {path}")
    if paths:
        return
    if not text.endswith(("}", ".yaml", "/")) and "=" in text:
        pairs = (pair.partition("=") for pair in text.split(";") if pair)
        yield {key.strip(): value.strip() for key, _, value in pairs}
    else:
        yield _mapping(text, "the inputs")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec("read", f"inputs file {path}", getattr(error, "strerror", None) or str(error)) from error


def _mapping(text: str, target: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        # The parsers quote what they do not understand, which may be secret.
        value = text
    if value is not None and not isinstance(value, dict):
        remedy = "Give a file that exists, YAML or JSON of a mapping, or name=value;name=value."
        raise InvalidSpec("read", target, "it is no mapping of inputs", remedy)
    return value or {}
