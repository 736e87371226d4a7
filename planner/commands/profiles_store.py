"""What the commands on profiles share: the store, and how figures are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from planner.errors import NotFoundError

if TYPE_CHECKING:
    from planner.domain.profile import Measurement, ProfileRow, ProfileStore

MB = 1_000_000


def store_options(function: Callable[..., None]) -> Callable[..., None]:
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option("--store", default="sqlite:///profiles.db", show_default=True, help="Profile store.")(function)


@contextmanager
def opened_store(url: str, *, must_exist: bool) -> Iterator[ProfileStore]:
    from planner.store.database import open_store

    opened = open_store(url, must_exist=must_exist)
    try:
        yield opened
    finally:
        opened.close()


def stored_rows(url: str, model: str | None, device: str | None) -> list[ProfileRow]:
    with opened_store(url, must_exist=True) as opened:
        rows = opened.rows()
    require((model,) if model else (), {r.model for r in rows}, "model")
    require((device,) if device else (), {r.device for r in rows}, "device")
    return [r for r in rows if model in (None, r.model) and device in (None, r.device)]


def stored_measurements(url: str) -> list[Measurement]:
    with opened_store(url, must_exist=True) as opened:
        return opened.measurements()


def require(names: Iterable[str], known: set[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise NotFoundError(f"{what} {name!r} has no profile; there are {', '.join(sorted(known)) or 'none'}")


def number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def megabytes(amount: int | None) -> str | None:
    return None if amount is None else f"{amount / MB:,.0f}"
