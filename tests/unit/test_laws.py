"""Laws over measured configurations: exact where they hold, silent beyond what was measured."""

from __future__ import annotations

import pytest

from profiler import laws


def time(instances: float, batch: float) -> float:
    return (1 + 2 / instances) + (0.5 + 0.1 / instances) * batch


def test_a_law_that_holds_is_found_and_says_what_was_not_measured() -> None:
    places = [(1, 1), (1, 16), (2, 1), (2, 16), (4, 1), (4, 16)]
    law = laws.fit("seconds per batch", laws.batch_seconds, places, [time(*place) for place in places])
    assert law is not None
    assert law.coefficients == pytest.approx((1, 2, 0.5, 0.1))
    assert (law.spare, round(law.worst, 9)) == (2, 0)
    assert law.at((3, 4)) == pytest.approx(time(3, 4))


def test_a_law_says_nothing_of_what_its_measurements_do_not_span() -> None:
    places = [(1, 1), (1, 4), (1, 16)]
    law = laws.fit("seconds per batch", laws.batch_seconds, places, [time(*place) for place in places])
    assert law is not None
    assert law.at((1, 8)) == pytest.approx(time(1, 8))
    assert law.at((2, 8)) is None
    assert law.spare == 1


def test_measuring_a_place_twice_puts_no_law_to_a_test() -> None:
    law = laws.fit("device seconds", laws.device_seconds, [(1, 1), (1, 8), (1, 8)], [1.0, 2.0, 2.1])
    assert law is not None
    assert law.spare == 0


def test_residuals_are_shares_of_the_measurement() -> None:
    law = laws.fit("device seconds", laws.device_seconds, [(1, 1), (1, 2), (1, 3)], [1.0, 2.2, 3.0])
    assert law is not None
    assert law.residuals[1] == pytest.approx(-law.worst)
    assert 0.03 < law.worst < 0.1


def test_less_than_nothing_is_no_answer() -> None:
    law = laws.fit("hot memory", laws.memory, [(1, 8), (2, 8), (1, 16), (2, 16)], [10.0, 100.0, 15.0, 105.0])
    assert law is not None
    assert law.at((1, 1)) is None or (law.at((1, 1)) or 0) > 0


def test_nothing_gives_no_law() -> None:
    assert laws.fit("hot memory", laws.memory, [], []) is None
