"""The largest stretch against its definition, on curves of any shape and length."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.domain.latency import CurvePoint, dilated_us, expected_us, largest_stretch, stretch, tolerance
from planner.domain.units import PPM

POINTS = st.builds(CurvePoint, st.integers(0, 10**9), st.integers(1, 10**9))
CURVES = st.lists(POINTS, max_size=12).map(lambda points: sorted(points, key=lambda point: point.rate_mrps))
RATES = st.integers(1, 10**9)
BOUNDS = st.integers(1, 10**9)


@settings(deadline=None)
@given(CURVES, RATES, BOUNDS)
def test_the_bound_is_kept_up_to_the_largest_stretch_and_no_further(
    curve: list[CurvePoint], rate_mrps: int, bound_us: int
) -> None:
    phi = largest_stretch(curve, rate_mrps, bound_us)
    if phi is None:
        alone = dilated_us(curve, rate_mrps, Fraction(1))
        assert alone is None or alone > bound_us
        return
    kept = dilated_us(curve, rate_mrps, phi)
    assert kept is not None
    assert kept <= bound_us
    beyond = dilated_us(curve, rate_mrps, phi * Fraction(1_000_001, 1_000_000))
    assert beyond is None or beyond > bound_us


@settings(deadline=None)
@given(CURVES, RATES, RATES, st.fractions(min_value=1, max_value=1000))
def test_what_is_expected_never_falls_with_the_rate_and_never_exceeds_the_promise(
    curve: list[CurvePoint], rate_mrps: int, more_mrps: int, phi: Fraction
) -> None:
    expected, promised = expected_us(curve, rate_mrps, phi), dilated_us(curve, rate_mrps, phi)
    assert (expected is None) == (promised is None)
    if expected is not None:
        assert promised is not None
        assert 0 < expected <= promised
        beyond = expected_us(curve, rate_mrps + more_mrps, phi)
        assert beyond is None or beyond >= expected


def test_what_is_expected_lies_between_the_points() -> None:
    curve = [CurvePoint(100, 10_000), CurvePoint(200, 8_000), CurvePoint(300, 30_000)]
    rates = (50, 100, 150, 200, 250, 300, 301)
    assert [expected_us(curve, rate, Fraction(1)) for rate in rates] == [
        10_000, 10_000, 10_000, 10_000, 20_000, 30_000, None,
    ]  # fmt: skip
    assert expected_us(curve, 125, Fraction(2)) == 40_000


def test_a_curve_may_have_any_number_of_points() -> None:
    curve = [CurvePoint(rate, 1 + rate // 7) for rate in range(1, 20_000)]
    assert largest_stretch(curve, 7, 500) == Fraction(153, 7)


@settings(deadline=None)
@given(st.fractions(min_value=1, max_value=1000), st.booleans())
def test_what_is_borne_never_stretches_further(phi: Fraction, optimistic: bool) -> None:
    borne = tolerance(phi, optimistic=optimistic)
    caused = stretch(borne.busy_ppm, borne.max_others or 0, optimistic=optimistic)
    assert borne.busy_ppm < PPM
    assert caused is not None
    assert caused <= phi
