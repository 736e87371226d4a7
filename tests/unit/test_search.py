"""The search on simulated devices: what it asks for, what it leaves to laws, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from profiler.constraints import Constraints
from profiler.points import Configuration
from profiler.search import Seen
from profiler.thrifty import Thrifty

MIB = 2**20
GRID = [
    Configuration(n, b, 0 if b > 1 else None) for n, b in product((1, 2, 3, 4), (16, 1, 2, 4, 8))
]  # the largest batch first, as points.configurations sorts them
Device = Callable[[Configuration], Seen]


def simulated(
    *,
    shared: tuple[float, float] = (1.0, 0.5),
    overlapped: tuple[float, float] = (0.0, 0.0),
    mib: tuple[float, float, float] = (20.0, 60.0, 2.0),
    wave: float = 0.0,
    slope: float = 0.0,
) -> Device:
    """A device that keeps the laws: milliseconds per batch and per inference that instances share and overlap, and
    hot memory. `wave` and `slope` break the law of the batch."""

    def seen(c: Configuration) -> Seen:
        n, b = c.instances, max(1, c.max_batch_size)
        fixed, each = (s + o / n for s, o in zip(shared, overlapped, strict=True))
        seconds = (fixed + each * b + slope * b * b) / 1000 * (1 + wave * (-1) ** (n + b.bit_length()))
        busy = min(1.0, (shared[0] + shared[1] * b) / 1000 / seconds)
        memory = round((mib[0] + n * (mib[1] + mib[2] * b)) * MIB)
        return Seen(configuration=c, inferences_per_s=b / seconds, memory_bytes=memory, busy=busy, noise=0.02)

    return seen


def searched(device: Device, constraints: Constraints | None = None, grid: list[Configuration] = GRID) -> Thrifty:
    """A search to its end."""
    search = Thrifty(grid, constraints or Constraints(), 1)
    while (configuration := search.next()) is not None:
        assert configuration not in asked_of(search), "asked for twice"
        search.record(device(configuration))
    return search


def asked_of(search: Thrifty) -> list[Configuration]:
    return list(search._seen)


def best_of(device: Device, configurations: list[Configuration]) -> float:
    return max(device(c).inferences_per_s or 0.0 for c in configurations)


def test_where_one_instance_fills_the_device_more_of_them_are_not_measured() -> None:
    device = simulated()
    search = searched(device)
    asked = {(c.instances, c.max_batch_size) for c in asked_of(search)}
    assert asked == {(1, 16), (1, 1), (2, 16), (2, 1), (1, 4)}
    assert best_of(device, asked_of(search)) == best_of(device, GRID)
    assert {c.configuration.instances for c in search.pruned()} == {3, 4}
    assert {one.reason for one in search.pruned()} == {"the step to 2 instances brought +0%, so more are not measured"}
    fitted = {(f.configuration.instances, f.configuration.max_batch_size) for f in search.fitted()}
    assert fitted == {(1, 2), (1, 8), (2, 2), (2, 4), (2, 8)}


@pytest.mark.parametrize(
    "device",
    [
        simulated(),
        simulated(overlapped=(2.0, 0.1)),
        simulated(shared=(0.2, 0.1), overlapped=(4.0, 1.0)),
        simulated(overlapped=(2.0, 0.1), wave=0.02),
        simulated(mib=(20, 60, 0)),
    ],
)
def test_what_is_fitted_is_right_within_what_it_says_and_the_best_is_measured(device: Device) -> None:
    search = searched(device)
    assert len(asked_of(search)) <= len(GRID) // 2
    assert best_of(device, asked_of(search)) >= 0.97 * best_of(device, GRID)
    told = {*asked_of(search), *(f.configuration for f in search.fitted()), *(p.configuration for p in search.pruned())}
    assert told == set(GRID)
    for fit in search.fitted():
        truth = device(fit.configuration)
        assert fit.inferences_per_s == pytest.approx(truth.inferences_per_s, rel=2 * fit.within)
        assert fit.memory_bytes is not None
        assert truth.memory_bytes is not None
        assert truth.memory_bytes <= fit.memory_bytes * 1.0001 <= 1.06 * truth.memory_bytes


def test_where_the_law_does_not_hold_more_is_measured_and_nothing_is_fitted() -> None:
    device = simulated(wave=0.2)
    search = searched(device)
    assert not search.fitted()
    assert {*asked_of(search), *(p.configuration for p in search.pruned())} == set(GRID)
    assert 5 < len(asked_of(search)) <= 8, "and not all of it: what the laws leave open is told as that"
    assert any(p.reason == "no law tells it, and 8 of 20 were tried" for p in search.pruned())


def test_a_batch_that_grows_slower_is_found_at_its_knee() -> None:
    """Beyond a batch of 4 each further inference costs so much that larger batches serve less."""
    device = simulated(shared=(3.0, 0.5), slope=0.25)
    search = searched(device)
    assert best_of(device, asked_of(search)) >= 0.97 * best_of(device, GRID)


def test_decisions_follow_from_what_was_seen_and_not_from_the_run() -> None:
    """Stopped after any number of configurations, a new search asks for the same ones in the same order."""
    device = simulated(overlapped=(2.0, 0.1), wave=0.02)
    order = asked_of(searched(device))
    for stopped_after in range(len(order)):
        again = Thrifty(GRID, Constraints(), 1)
        for configuration in order[:stopped_after]:
            assert again.next() == configuration
            again.record(device(configuration))
        assert again.next() == order[stopped_after]


def test_memory_that_is_too_much_prunes_all_that_takes_more() -> None:
    device = simulated(overlapped=(4.0, 1.0))
    search = searched(device, Constraints(max_memory_bytes=150 * MIB))
    assert all(device(c).memory_bytes is not None for c in asked_of(search))
    too_large = [p for p in search.pruned() if "at most 150.0 MiB are allowed" in p.reason]
    assert too_large
    large = next(c for c in asked_of(search) if (device(c).memory_bytes or 0) > 150 * MIB)
    assert "150.0 MiB" in (search.no_open_loop(device(large)) or "")


def test_a_least_rate_prunes_what_cannot_reach_it() -> None:
    device = simulated()
    search = searched(device, Constraints(min_rate_rps=1500))
    reasons = {p.reason for p in search.pruned() if p.configuration == Configuration(1, 2, 0)}
    [reason] = reasons
    assert reason.startswith("serves 10")
    assert reason.endswith("at least 1500 are asked for")


def test_a_bound_that_a_lone_request_misses_ends_the_search() -> None:
    search = Thrifty(GRID, Constraints(latency_ms=1.0), 1)
    first = search.next()
    assert first == Configuration(1, 16, 0)
    search.record(Seen(configuration=first, inferences_per_s=100.0, lone_ms=1.5))
    assert search.next() is None
    assert not search.fitted()
    assert {p.reason for p in search.pruned()} == {"one request alone takes 1.5 ms, at most 1 ms are allowed"}
    assert len(search.pruned()) == len(GRID) - 1


def test_a_client_that_is_too_slow_hides_what_more_instances_bring_and_no_law_rests_on_it() -> None:
    def device(c: Configuration) -> Seen:
        return Seen(configuration=c, inferences_per_s=700.0, memory_bytes=MIB, busy=0.5, client_bound=True)

    search = searched(device)
    assert not search.fitted()
    assert {c.instances for c in asked_of(search)} == {1, 2}


def test_no_law_rests_on_what_others_disturbed() -> None:
    calm = simulated()
    search = searched(lambda c: replace(calm(c), disturbed=c.max_batch_size == 4))
    # the middle batch puts the law to a test: disturbed, it does not, and another one has to
    assert {(c.instances, c.max_batch_size) for c in asked_of(search)} >= {(1, 4), (1, 16), (1, 1)}
    assert len(asked_of(search)) > 5
    search = searched(lambda c: replace(calm(c), disturbed=True))
    assert not search.fitted()


def test_a_largest_batch_that_does_not_work_takes_none_of_the_others_with_it() -> None:
    working = simulated()

    def device(c: Configuration) -> Seen:
        return Seen(configuration=c, failed=True) if c.max_batch_size == 16 else working(c)

    search = searched(device)
    assert best_of(working, [c for c in asked_of(search) if c.max_batch_size < 16]) == best_of(
        working, [c for c in GRID if c.max_batch_size < 16]
    )
    assert {c.instances for c in asked_of(search) if c.max_batch_size == 16} == {1}
    assert any(p.reason == "1 instance, max batch 16, queue delay 0 us already failed" for p in search.pruned())


def test_a_model_that_never_works_is_given_up_at_both_ends_of_its_batches() -> None:
    search = searched(lambda c: Seen(configuration=c, failed=True))
    assert asked_of(search) == [Configuration(1, 16, 0), Configuration(1, 1, None)]
    assert not search.fitted()


def test_every_queue_delay_is_measured_once() -> None:
    delays = (None, 0, 500)
    grid = [Configuration(n, b, d if b > 1 else None) for n in (1, 2) for b in (8, 1, 2, 4) for d in delays]
    grid = list(dict.fromkeys(grid))
    search = searched(simulated(), grid=grid)
    asked = {(c.instances, c.max_batch_size, c.queue_delay_us) for c in asked_of(search)}
    assert {(1, 8, 0), (1, 8, 500), (1, 8, None)} <= asked


def test_more_instances_that_nobody_can_judge_are_tried_further() -> None:
    """A step that did not pay ends them only where others, and chance, cannot have hidden that it did."""
    device = simulated()
    for hidden in ({"disturbed": True}, {"noise": 0.05}):
        search = searched(lambda c, hidden=hidden: replace(device(c), **hidden))
        assert {c.instances for c in asked_of(search) if c.max_batch_size == 16} == {1, 2, 4}


def test_what_is_no_better_in_anything_needs_no_open_loop() -> None:
    device = simulated()
    search = Thrifty(GRID, Constraints(), 1)
    small, large = Configuration(1, 16, 0), Configuration(2, 16, 0)
    for configuration in (small, large):
        search.record(device(configuration))
    assert search.no_open_loop(device(small)) is None
    assert search.no_open_loop(device(large)) == f"{small} serves as much and takes no more"
