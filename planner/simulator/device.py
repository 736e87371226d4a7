"""One device and its streams of requests, through the compiled events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.simulator.kernel import Floats, play


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """The requests of one model, in order of time, and how they are served: at most `most_requests` in a batch, which
    waits no longer than `delay_s` for more and takes `fixed_s + requests * each_s` of the device's time."""

    arrivals_s: Floats
    instances: int
    most_requests: int
    delay_s: float
    fixed_s: float
    each_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What became of a stream. `latency_s` has the requests of the window in order of arrival, `work_s` the device's
    time of the batches that began in it, with `requests` in them; `waiting` requests were unanswered at its end."""

    latency_s: Floats
    batches: int
    requests: int
    work_s: float
    waiting: int


def simulate(
    streams: Sequence[Stream], weights: Sequence[Sequence[float]], start_s: float, end_s: float
) -> tuple[list[Served], float]:
    """Every request served, those that arrive from `start_s` until `end_s` counted; and the share of that window in
    which the device was not idle. `weights[i][k]`: how much an execution of stream k slows one of stream i."""
    arrivals = [np.ascontiguousarray(stream.arrivals_s, np.float64) for stream in streams]
    first = np.concatenate([[0], np.cumsum([len(own) for own in arrivals])]).astype(np.int64)
    latency_s = np.empty(first[-1])
    batches, requests = np.zeros(len(streams), np.int64), np.zeros(len(streams), np.int64)
    work_s = np.zeros(len(streams))
    active_s = play(
        np.concatenate(arrivals), first,
        np.array([stream.instances for stream in streams], np.int64),
        np.array([stream.most_requests for stream in streams], np.int64),
        np.array([stream.delay_s for stream in streams], np.float64),
        np.array([stream.fixed_s for stream in streams], np.float64),
        np.array([stream.each_s for stream in streams], np.float64),
        np.array(weights, np.float64), start_s, end_s, latency_s, batches, requests, work_s,
    )  # fmt: skip
    served = []
    for i, own in enumerate(arrivals):
        low, high = np.searchsorted(own, (start_s, end_s))
        counted = latency_s[first[i] + low : first[i] + high]
        waiting = int(np.count_nonzero(own[low:high] + counted > end_s))
        served.append(Served(counted, int(batches[i]), int(requests[i]), float(work_s[i]), waiting))
    return served, active_s / (end_s - start_s)


def poisson(rate_rps: float, seconds: float, rng: np.random.Generator) -> Floats:
    """Arrivals of a Poisson process, ascending."""
    times: Floats = np.sort(rng.uniform(0.0, seconds, rng.poisson(rate_rps * seconds)))
    return times


def besides_s(quantiles: Sequence[tuple[int, float]], count: int, rng: np.random.Generator) -> Floats:
    """What each of so many requests takes besides: drawn between the percentiles as an exponential tail is, and at
    least the lowest. Nothing without percentiles."""
    if not quantiles:
        return np.zeros(count)
    place = rng.exponential(1.0, count)
    places = -np.log1p(-np.array([percentile for percentile, _ in quantiles]) / 100)
    seconds = np.array([value for _, value in quantiles])
    drawn: Floats = np.interp(place, places, seconds)
    if len(seconds) > 1:
        slope = (seconds[-1] - seconds[-2]) / (places[-1] - places[-2])
        drawn += slope * np.maximum(0.0, place - places[-1])
    return drawn
