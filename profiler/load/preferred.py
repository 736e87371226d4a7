"""One load generator where it can, another one where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.domain.serving import LoadGenerator, LoadResult, LoadSpec, Server
from planner.errors import LoadError


class PreferredLoadGenerator:
    """Runs `first`; where that raises LoadError, `second`, whose results then say why in their `note`.

    A server that died, or inputs that nobody can make up, are no reason to try again.
    """

    def __init__(self, first: LoadGenerator, second: LoadGenerator) -> None:
        self.name = first.name
        self._first = first
        self._second = second

    def run(self, server: Server, specs: Sequence[LoadSpec]) -> list[LoadResult]:
        try:
            return self._first.run(server, specs)
        except LoadError as error:
            results = self._second.run(server, specs)
            note = f"load by {self._second.name}: {error.message}"
            return [replace(result, note=note) for result in results]
