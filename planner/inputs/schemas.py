"""JSON Schemas of every file: of YAML files from their pydantic records, of JSON files from the dataclasses."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from planner.domain.certificate import Certificate
from planner.domain.plan import Plan
from planner.domain.problem import SCHEMA_VERSION, Problem
from planner.errors import NotFoundError
from planner.inputs.fleet import FleetFile
from planner.inputs.measure_config import MeasureFile
from planner.inputs.record import Record
from planner.inputs.workload import WorkloadFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"

YAML_FILES: Mapping[str, type[Record]] = {"workload": WorkloadFile, "fleet": FleetFile, "measure": MeasureFile}
JSON_FILES: Mapping[str, type] = {"problem": Problem, "plan": Plan, "certificate": Certificate}

_PLAIN: Mapping[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of workload, fleet, measure, problem, plan or certificate."""
    if name in YAML_FILES:
        found = YAML_FILES[name].model_json_schema()
    elif name in JSON_FILES:
        found = dataclass_schema(JSON_FILES[name])
    else:
        raise NotFoundError(f"there is no schema {name!r}", hint=f"there are {', '.join((*YAML_FILES, *JSON_FILES))}")
    return {"$schema": DIALECT, **found, "title": name}


def dataclass_schema(kind: type) -> dict[str, Any]:
    """What `planner.domain.codec.from_json` accepts for a dataclass."""
    definitions: dict[str, Any] = {}
    _of(kind, definitions)
    root = definitions.pop(kind.__name__)
    root["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return {**root, "$defs": definitions}


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one type hint; dataclasses are put into `definitions` and referred to."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(argument, definitions) for argument in arguments]}
    if origin is tuple:
        return _tuple(arguments, definitions)
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    if is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # a record that holds itself refers to this
            definitions[kind.__name__] = _record(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    raise TypeError(f"no schema for {kind!r}")


def _tuple(arguments: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    exact = [_of(argument, definitions) for argument in arguments]
    return {"type": "array", "prefixItems": exact, "items": False, "minItems": len(exact)}


def _record(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    known = fields(kind)
    return {
        "type": "object",
        "properties": {f.name: _of(hints[f.name], definitions) for f in known},
        "required": [f.name for f in known if f.default is MISSING and f.default_factory is MISSING],
        "additionalProperties": False,
    }
