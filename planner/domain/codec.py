"""Frozen dataclasses to JSON values and back, refusing what does not fit and naming the field."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from planner.errors import InputError

T = TypeVar("T")


_LATER = "later"


def later(default: T) -> T:
    """A field that came after files were written: left out at its default, so that their digests stay."""
    made: T = field(default=default, metadata={_LATER: True})
    return made


def to_json(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value) if not _left_out(f, value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(v) for v in value]
    return value


def _left_out(known: Field[Any], value: object) -> bool:
    return _LATER in known.metadata and bool(getattr(value, known.name) == known.default)


def from_json(kind: type[T], value: object, where: str) -> T:
    """Build a `kind` from parsed JSON; InputError names the path of the field that does not fit."""
    result: T = _decode(kind, value, where)
    return result


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_optional(kind, value, where)
    if origin is tuple:
        return _decode_tuple(get_args(kind), _expect(list, value, where), where)
    if origin in (dict, Mapping):
        item = get_args(kind)[1]
        return {str(k): _decode(item, v, f"{where}.{k}") for k, v in _expect(dict, value, where).items()}
    if is_dataclass(kind):
        return _decode_record(kind, _expect(dict, value, where), where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        allowed = [member.value for member in kind]
        if value not in allowed:
            raise InputError(f"{where}: must be one of {', '.join(map(str, allowed))}, got {value!r}")
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, where)


def _decode_optional(kind: Any, value: object, where: str) -> Any:
    members = [member for member in get_args(kind) if member is not type(None)]
    if value is None:
        return None
    if len(members) > 1 and type(value) in members:
        return value
    return _decode(members[0], value, where)


def _decode_tuple(args: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise InputError(f"{where}: expected {len(args)} entries, got {len(value)}")
    return tuple(_decode(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(args, value, strict=True)))


def _decode_record(kind: Any, value: dict[str, Any], where: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    for key in value:
        if key not in known:
            raise InputError(f"{where}: unknown field {key!r}; allowed are {', '.join(known)}")
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{where}: field {name!r} is missing")
    hints = _hints(kind)
    return kind(**{key: _decode(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _expect(kind: Any, value: object, where: str) -> Any:
    if kind is Any or kind is object:
        return value
    if type(value) is not kind:
        raise InputError(f"{where}: expected {_NAMES.get(kind, kind)}, got {value!r}")
    return value


_NAMES = {
    list: "a list",
    dict: "an object",
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
}
