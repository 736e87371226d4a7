"""Headers for a server that asks for them. Their values are secret: never on a command line, in a message, a file
or a store."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from planner.errors import InputError, NotFoundError

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]+")
_FORM = "write --header NAME=env:VARIABLE or --header NAME=file:PATH"


def read_headers(texts: Sequence[str]) -> dict[str, str]:
    """Of `--header NAME=env:VARIABLE` and `NAME=file:PATH`; names in lower case, as gRPC wants them.

    No error has a value in it.
    """
    return dict(_read(number, text) for number, text in enumerate(texts, start=1))


def _read(number: int, text: str) -> tuple[str, str]:
    name, _, rest = text.partition("=")
    kind, _, place = rest.partition(":")
    if not _NAME.fullmatch(name):
        raise InputError(f"--header, number {number}: its name is not one of a header", hint=_FORM)
    if kind not in ("env", "file") or not place:
        raise InputError(f"--header {name}: a value is secret, and others can read a command line", hint=_FORM)
    value = _from_environment(name, place) if kind == "env" else _from_file(name, Path(place))
    if not _VALUE.fullmatch(value):
        raise InputError(f"--header {name}: the value of {place} is empty, or holds more than printable ASCII")
    return name.lower(), value


def _from_environment(name: str, variable: str) -> str:
    if (value := os.environ.get(variable)) is None:
        raise NotFoundError(f"--header {name}: the environment has no variable {variable}")
    return value.strip()


def _from_file(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise NotFoundError(f"--header {name}: {path}: {why}") from None
