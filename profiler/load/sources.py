"""Where a stream's next request comes from: prepared ones in turn, or the next one of a live sequence."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from profiler.load.transport import Wire


class Source(Protocol):
    @property
    def turn(self) -> asyncio.Lock | None:
        """Held from a request to its answer where only one may be outstanding."""
        ...

    def next(self) -> Any: ...

    def failed(self) -> None:
        """The last request has no answer."""
        ...

    def last(self) -> Any | None:
        """What must still be sent at the end."""
        ...


class InTurn:
    turn = None

    def __init__(self, requests: Sequence[Any]) -> None:
        self._requests = itertools.cycle(requests)

    def next(self) -> Any:
        return next(self._requests)

    def failed(self) -> None:
        """Nothing: requests have nothing to do with each other."""

    def last(self) -> None:
        return None


class LiveSequence:
    """One sequence after the other, each with an id and a stream of its own.

    `streams` and `ids` are shared by all that are live: each takes the next ones.
    """

    def __init__(self, wire: Wire, ids: Iterator[int | str], streams: Iterator[tuple[Sequence[Any], int]]) -> None:
        self.turn = asyncio.Lock()
        self._wire = wire
        self._ids = ids
        self._streams = streams
        self._requests: Sequence[Any] = ()
        self._length = self._sent = 0
        self._id: int | str = 0

    def next(self) -> Any:
        if self._sent == self._length:
            self._requests, self._length = next(self._streams)
            self._id, self._sent = next(self._ids), 0
        self._sent += 1
        return self._request(end=self._sent == self._length)

    def failed(self) -> None:
        """A sequence with a gap is none: the next request begins another one."""
        self._sent = self._length

    def last(self) -> Any | None:
        """A sequence that stays open holds its slot in the server."""
        if self._sent == self._length:
            return None
        self._sent += 1
        return self._request(end=True)

    def _request(self, *, end: bool) -> Any:
        request = self._requests[(self._sent - 1) % len(self._requests)]
        return self._wire.in_sequence(request, self._id, start=self._sent == 1, end=end)
