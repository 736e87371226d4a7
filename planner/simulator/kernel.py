"""The discrete events of one device, compiled with numba.

Each model has a queue of its own in order of arrival, a dynamic batcher and some instances. Executions that run at the
same time share the device: one of model m proceeds at the speed

    1 / (own executions + sum over other models k of kappa[m][k] x executions of k)

so that weights of 1 are processor sharing. All executions of a model are equally fast, so each model has a clock of
its own, the service that every one of its executions has had; an event costs time in proportion to the models.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NONE, ARRIVAL, END, DELAY_OVER = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def play(
    arrival_s: Floats, first: Ints, instances: Ints, most: Ints, delay_s: Floats, fixed_s: Floats, each_s: Floats,
    kappa: Floats, start_s: float, end_s: float, latency_s: Floats, executions: Ints, requests: Ints, work_s: Floats,
) -> float:  # fmt: skip
    """Serve every arrival; seconds between `start_s` and `end_s` in which the device was not idle.

    `arrival_s` holds the arrivals of model m, ascending, from `first[m]` to `first[m + 1]`, and `latency_s` gets
    theirs. A batch starts where an instance is free, and `most` requests wait or the oldest has waited `delay_s`; with
    n requests it takes `fixed_s + n * each_s` of the device's time. `executions`, `requests` and `work_s` count, by
    model, the batches that start between `start_s` and `end_s`.
    """
    models = instances.shape[0]
    seat = np.zeros(models + 1, np.int64)
    for m in range(models):
        seat[m + 1] = seat[m] + instances[m]
    seats = seat[models]
    # Per seat, an instance that may run a batch: when it ends on its model's clock, and its requests.
    ends, oldest, count = np.full(seats, np.inf), np.zeros(seats, np.int64), np.zeros(seats, np.int64)
    clock, next_end, next_seat = np.zeros(models), np.full(models, np.inf), np.zeros(models, np.int64)
    active, shared = np.zeros(models, np.int64), np.zeros(models)
    arrived, head = first[:models].copy(), first[:models].copy()
    now, busy_s, running = 0.0, 0.0, 0
    while True:
        at, event, model = np.inf, NONE, 0
        for m in range(models):
            if active[m] > 0:
                end = now + (next_end[m] - clock[m]) * shared[m]
                if end < at:
                    at, event, model = end, END, m
            if arrived[m] < first[m + 1] and arrival_s[arrived[m]] < at:
                at, event, model = arrival_s[arrived[m]], ARRIVAL, m
            if head[m] < arrived[m] and active[m] < instances[m] and arrival_s[head[m]] + delay_s[m] < at:
                at, event, model = arrival_s[head[m]] + delay_s[m], DELAY_OVER, m
        if event == NONE:
            return busy_s
        if running > 0:
            busy_s += max(0.0, min(at, end_s) - max(now, start_s))
            for m in range(models):
                if active[m] > 0:
                    clock[m] += (at - now) / shared[m]
        now = at
        if event == ARRIVAL:
            arrived[model] += 1
        elif event == END:
            s = next_seat[model]
            clock[model] = ends[s]
            for r in range(oldest[s], oldest[s] + count[s]):
                latency_s[r] = now - arrival_s[r]
            ends[s] = np.inf
            active[model] -= 1
            running -= 1
            for m in range(models):
                shared[m] -= 1.0 if m == model else kappa[m, model]
            if active[model] == 0:
                clock[model] = 0.0
            if running == 0:
                shared[:] = 0.0  # what rounding left
        while head[model] < arrived[model] and active[model] < instances[model]:
            waiting = arrived[model] - head[model]
            if waiting < most[model] and arrival_s[head[model]] + delay_s[model] > now:
                break
            s = seat[model]
            while ends[s] < np.inf:
                s += 1
            oldest[s], count[s] = head[model], min(waiting, most[model])
            head[model] += count[s]
            work = fixed_s[model] + count[s] * each_s[model]
            ends[s] = clock[model] + work
            active[model] += 1
            running += 1
            for m in range(models):
                shared[m] += 1.0 if m == model else kappa[m, model]
            if start_s <= now < end_s:
                executions[model] += 1
                requests[model] += count[s]
                work_s[model] += work
        next_end[model] = np.inf
        for s in range(seat[model], seat[model + 1]):
            if ends[s] < next_end[model]:
                next_end[model], next_seat[model] = ends[s], s
