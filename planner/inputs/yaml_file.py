"""YAML files to checked records; every error names file, line, field, value and what is allowed.

Scalars follow YAML 1.2: `no` and `2026-05-01` are text, `1e3` is a number.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from planner.errors import InputError, NotFoundError, SetupError
from planner.inputs.record import Record, Step, Steps, record_at

MOST_ERRORS = 10
_MOST_NODES = 2_000_000
_SHOWN = 60

Model = TypeVar("Model", bound=Record)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A parsed file: its value, and for every path into it the line where that entry begins."""

    name: str
    value: Any
    lines: Mapping[Steps, int]

    def error(self, steps: Steps, message: str, *, hint: str | None = None) -> InputError:
        return InputError(f"{self.where(steps)}: {message}", hint=hint)

    def where(self, steps: Steps) -> str:
        """ "workload.yaml:7: models[0].name"; a missing entry has the line of what should hold it."""
        known = steps
        while known and known not in self.lines:
            known = known[:-1]
        place = f"{self.name}:{self.lines.get(known, 1)}"
        return f"{place}: {path_text(steps)}" if steps else place

    @contextmanager
    def at(self, *steps: Step) -> Iterator[None]:
        """Give the place to an error that a domain record raises."""
        try:
            yield
        except (InputError, NotFoundError) as error:
            raise type(error)(f"{self.where(steps)}: {error.message}", hint=error.hint) from error


def path_text(steps: Steps) -> str:
    """("models", 0, "name") -> "models[0].name"."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def nearest(name: str, known: Collection[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names most like a mistyped one, without regard to case."""
    by_folded = {k.casefold(): k for k in known}
    return [by_folded[m] for m in difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=cutoff)]


def read_text(path: Path) -> str:
    """A UTF-8 text file; whatever prevents reading it is an error with the path."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: this is a folder, a file is needed") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error


def read_yaml(path: Path) -> YamlFile:
    name = str(path)
    text = read_text(path)
    try:
        root = yaml.compose(text, Loader=_CoreLoader)
    except yaml.YAMLError as error:
        raise InputError(_syntax_error(name, error)) from error
    except RecursionError as error:
        raise InputError(f"{name}: nested too deeply") from error
    if root is None:
        raise InputError(f"{name}: the file is empty", hint="planner init writes a commented one")
    reader = _Reader(name)
    try:
        value = reader.read(root, ())
    except RecursionError as error:
        raise InputError(f"{name}: nested too deeply") from error
    return YamlFile(name, value, reader.lines)


def read_record(kind: type[Model], path: Path) -> tuple[Model, YamlFile]:
    """Read a file into a record whose first field is `schema_version`."""
    file = read_yaml(path)
    if not isinstance(file.value, dict):
        raise file.error((), f"expected keys such as schema_version, got {_shown(file.value)}")
    _require_version(kind, file)
    try:
        return kind.model_validate(file.value), file
    except ValidationError as error:
        raise _translated(kind, file, error) from error


def _require_version(kind: type[Record], file: YamlFile) -> None:
    # Before all else: a file of another version may differ in every other field.
    if "schema_version" not in kind.model_fields:
        return
    known = 1
    if "schema_version" not in file.value:
        raise file.error(("schema_version",), f"is missing; write schema_version: {known}")
    version = file.value["schema_version"]
    if version != known or isinstance(version, bool):
        raise file.error(("schema_version",), f"{_shown(version)} is unknown; this version reads {known}")


class _CoreLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own shape


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), _first)


class _Reader:
    """Nodes to plain values. Aliases are expanded, so that every path has its line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Steps, int] = {}
        self._open: set[int] = set()

    def read(self, node: yaml.Node, steps: Steps) -> Any:
        self.lines.setdefault(steps, node.start_mark.line + 1)
        if len(self.lines) > _MOST_NODES:
            raise InputError(f"{self.name}: more than {_MOST_NODES} entries")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise InputError(f"{self._place(node)}: this alias contains itself")
        self._open.add(id(node))
        value = self._mapping(node, steps) if isinstance(node, yaml.MappingNode) else self._list(node, steps)
        self._open.discard(id(node))
        return value

    def _list(self, node: yaml.Node, steps: Steps) -> list[Any]:
        return [self.read(item, (*steps, i)) for i, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, steps: Steps) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"{self._place(key)}: a key must be a plain word")
            if key.value in found:
                before = self.lines[(*steps, key.value)]
                raise InputError(
                    f"{self._place(key)}: {path_text((*steps, key.value))}: given twice, first in line {before}"
                )
            self.lines[(*steps, key.value)] = key.start_mark.line + 1
            found[key.value] = self.read(item, (*steps, key.value))
        return found

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        try:
            match node.tag.rpartition(":")[2]:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text)
                case "float":
                    return float(re.sub(r"\.(?=[iInN])", "", text))
        except ValueError as error:
            raise InputError(f"{self._place(node)}: {_shown(text)} is not a number") from error
        raise InputError(f"{self._place(node)}: the tag {node.tag} is not allowed here")

    def _place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


def _syntax_error(name: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        context = f" ({error.context})" if error.context else ""
        return f"{name}:{error.problem_mark.line + 1}: not valid YAML: {error.problem}{context}"
    return f"{name}: not valid YAML: {str(error).splitlines()[0]}"


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _translated(kind: type[Record], file: YamlFile, error: ValidationError) -> InputError:
    found: list[tuple[int, str]] = []
    meant: set[Steps] = set()
    details = sorted(error.errors(), key=lambda e: e["type"] == "missing")
    for detail in details:
        steps: Steps = detail["loc"]
        if detail["type"] == "missing" and steps in meant:
            continue  # the mistyped key beside it says the same
        if detail["type"] == "extra_forbidden":
            message, guess = _unknown_key(kind, steps)
            meant.update((*steps[:-1], g) for g in guess)
        else:
            message = _message(detail)
        place = file.where(steps)
        line = int(place[len(file.name) + 1 :].split(":")[0])
        found.append((line, f"{place}: {message}"))
    texts = [text for _, text in sorted(found, key=lambda f: f[0])]
    others = texts[1:MOST_ERRORS]
    if len(texts) > MOST_ERRORS:
        others.append(f"and {len(texts) - MOST_ERRORS} more")
    return InputError(texts[0], hint="also: " + "\n      ".join(others) if others else None)


def _unknown_key(kind: type[Record], steps: Steps) -> tuple[str, list[str]]:
    key = str(steps[-1])
    record = record_at(kind, steps[:-1])
    if key in record.later:
        return "is not supported by this version yet", []
    guess = nearest(key, record.keys())
    maybe = f" did you mean {guess[0]}?" if guess else ""
    return f"unknown key;{maybe} allowed: {', '.join(record.keys())}", guess


_EXPECTED = {
    "string_type": "must be text (put it in quotes)",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be keys with values",
    "model_type": "must be keys with values",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def _message(detail: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind].format(**context)}, got {_shown(detail['input'])}"
    return f"{detail['msg'].lower()}, got {_shown(detail['input'])}"
