"""What searches named best, measured beside each other.

A search's best rate is the largest of many noisy ones, of a grid even more so than of a few points, and hours may lie
between two searches. Here every winner is measured anew, in turns on fresh servers, each for as long as the others.
The device's time that other processes took is given back, as the search does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from profiler.configuration_run import ConfigurationRun
from profiler.points import Configuration, MeasureRequest, ModelFacts, closed_point
from profiler.running import Tools
from profiler.seen import given_back

ROUNDS = 5
WINDOW_S = 4.0


@dataclass(frozen=True)
class Winner:
    instances: int
    max_batch_size: int
    queue_delay_us: int | None
    concurrency: int


def rates_rps(
    request: MeasureRequest, tools: Tools, model: ModelFacts, winners: Sequence[Winner], rounds: int = ROUNDS
) -> list[float]:
    """The median over the rounds, in the order of the winners; equal ones are measured once."""
    found: dict[Winner, list[float]] = {winner: [] for winner in winners}
    for number in range(rounds):
        # who comes first changes, so that a machine that gets slower favours none of them
        for winner in list(found)[:: 1 if number % 2 == 0 else -1]:
            c = Configuration(winner.instances, winner.max_batch_size, winner.queue_delay_us)
            with ConfigurationRun(request, tools, model, c, paid_once_bytes=0) as run:
                window = run.window(closed_point(winner.concurrency), WINDOW_S, number)
            more = given_back(winner.instances, window.usage.busy, window.usage.remarks())
            found[winner].append(window.rate_rps * more)
    return [median(found[winner]) for winner in winners]
