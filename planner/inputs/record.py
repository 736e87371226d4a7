"""The base of every record that is read from a YAML file."""

from __future__ import annotations

import types
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from planner.domain.units import parse_bytes
from planner.errors import InputError

Step = str | int
Steps = tuple[Step, ...]

_SMALLEST_MEMORY = 2**20


class Record(BaseModel):
    """Strict: unknown keys are errors, text is not a number. `later`: promised keys not planned with yet."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def keys(cls) -> list[str]:
        return list(cls.model_fields)


def record_at(kind: type[Record], steps: Steps) -> type[Record]:
    """The record class that a path into a `kind` leads to."""
    found: Any = kind
    for step in steps:
        found = _inner(found, step)
    if not (isinstance(found, type) and issubclass(found, Record)):
        raise TypeError(f"{steps} in {kind.__name__} is no record")
    return found


def _inner(kind: Any, step: Step) -> Any:
    if isinstance(kind, type) and issubclass(kind, Record):
        return _plain(kind.model_fields[str(step)].annotation)
    return _plain(get_args(kind)[-1])  # list[X] and dict[str, X]


def _plain(kind: Any) -> Any:
    """Without Annotated and None."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return _plain(next(k for k in get_args(kind) if k is not type(None)))
    return kind


def _bytes(value: object) -> object:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"must be an amount of memory such as 4GiB, got {value!r}")  # noqa: TRY004 - pydantic's protocol
    try:
        amount = parse_bytes(value, where="")
    except InputError as error:
        raise ValueError(error.message.removeprefix(": ")) from error
    if 0 < amount < _SMALLEST_MEMORY:
        raise ValueError(f"{value!r} is less than 1 MiB; write the unit, for example 4GiB")
    return amount


def _as_text_or_number(schema: dict[str, Any]) -> None:
    schema.pop("type", None)
    schema.pop("minimum", None)
    schema["anyOf"] = [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[A-Za-z]*\s*$"},
    ]


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0, json_schema_extra=_as_text_or_number)]
"""Bytes, written as 4GiB, 512MB or a plain number."""

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
