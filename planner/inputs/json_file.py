"""JSON files of others, read with errors that name the file, the field, the value and what is allowed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.inputs.yaml_file import read_text

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Field:
    """A value and where it stands: "0.ckpt: ResultManager.results._results"."""

    value: Any
    where: str

    def __getitem__(self, key: str) -> Field:
        found = self.get(key)
        if found is None:
            raise self.error(f"{key!r} is missing")
        return found

    def get(self, key: str) -> Field | None:
        """None where the key is absent or null."""
        found = self._mapping().get(key)
        return None if found is None else Field(found, self._below(key))

    def entries(self) -> Iterator[tuple[str, Field]]:
        """The keys and fields of an object."""
        for key, value in self._mapping().items():
            yield key, Field(value, self._below(key))

    def items(self) -> list[Field]:
        if not isinstance(self.value, list):
            raise self._expected("a list")
        return [Field(value, f"{self.where}[{place}]") for place, value in enumerate(self.value)]

    def pair(self) -> tuple[Field, Field]:
        found = self.items()
        if len(found) != 2:
            raise self._expected("a list of two")
        return found[0], found[1]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self._expected("text")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self._expected("true or false")
        return self.value

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self._expected("a number >= 0")
        number = float(self.value)
        if not math.isfinite(number) or number < 0:
            raise self._expected("a number >= 0")
        return number

    def whole(self, least: int = 0) -> int:
        """A whole number; protobuf's JSON writes large ones as text."""
        value = self.value
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._expected(f"a whole number >= {least}")
        return value

    def error(self, message: str) -> InputError:
        return InputError(f"{self.where}: {message}")

    def _expected(self, what: str) -> InputError:
        text = json.dumps(self.value)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        return self.error(f"{what} is needed, got {shown}")

    def _mapping(self) -> Mapping[str, Any]:
        if not isinstance(self.value, dict):
            raise self._expected("an object")
        return self.value

    def _below(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where[-1:] not in (" ", "") else f"{self.where}{key}"


def read_json_file(path: Path) -> Field:
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error
    return Field(value, f"{path}: ")
