"""From samples to figures: what counts, and what stays unknown."""

from __future__ import annotations

from typing import Any

import pytest

from profiler.devices.gpu_reading import Reading
from profiler.devices.gpu_usage import MIB, Before, GpuUsage, Other, Sample, busiest_start, usage

STRANGER = Other(7, "python", 5 * MIB)


def sample(time_s: float, *, server: int | None = None, busy: float | None = None, others: tuple[Other, ...] = (),
           **reading: Any) -> Sample:  # fmt: skip
    return Sample(time_s, Reading(**{"processes": {}, **reading}), server, busy, others)


def of(*samples: Sample, before: Before | None = None, is_mig: bool = False, **unknown: str) -> GpuUsage:
    return usage(samples, before or Before(), unknown, is_mig=is_mig)


def test_memory_of_its_processes_goes_before_the_difference() -> None:
    found = of(sample(0, used_bytes=900), sample(1, used_bytes=950, server=300), before=Before(100))
    assert (found.peak_bytes, found.memory_source) == (300, "process")
    found = of(sample(0, used_bytes=90), sample(1, used_bytes=950), before=Before(100))
    assert (found.peak_bytes, found.lowest_bytes, found.memory_source) == (850, 0, "difference")
    found = of(sample(0, used_bytes=950))
    assert (found.peak_bytes, found.memory_source) == (None, "unknown")
    assert "what was in use before the server started is not known" in found.warnings()[0]


def test_no_sample_at_all_leaves_everything_unknown() -> None:
    found = of(used_bytes="it hangs")
    assert (found.peak_bytes, found.busy, found.power_watts, found.samples()) == (None, None, None, {})
    reasons = found.gpu["unknown"]
    assert reasons["used_bytes"] == "it hangs"
    assert reasons["board_power_watts"] == "NVML gave no sample in this window"
    figures = {name for name, value in found.gpu.items() if value is None}
    assert figures <= set(reasons)


def test_busy_weighs_each_share_by_its_time() -> None:
    found = of(sample(0, busy=0.9), sample(1, busy=1.0), sample(2), sample(4, busy=0.5))
    assert found.busy == pytest.approx((1 * 1.0 + 3 * 0.5) / 4)
    assert of(sample(0, busy=0.9)).busy is None


def test_power_comes_from_the_energy_counter_where_there_is_one() -> None:
    counted = of(sample(0, energy_j=100.0, power_watts=1.0), sample(2, energy_j=300.0, power_watts=1.0))
    assert (counted.power_watts, counted.gpu["board_energy_j"]) == (100.0, 200.0)
    assert of(sample(0, power_watts=50.0), sample(2, power_watts=70.0)).power_watts == 60.0
    mig = of(sample(0, power_watts=50.0), is_mig=True)
    assert (mig.power_watts, mig.gpu["board_power_watts"]) == (None, 50.0)


def test_others_are_named_with_their_share() -> None:
    found = of(
        sample(0, used_bytes=10, others=(STRANGER,)),
        sample(0.1, used_bytes=10),
        sample(0.2, used_bytes=None, processes=None),
        before=Before(0),
    )
    assert found.gpu["other_processes"] == [
        {"pid": 7, "name": "python", "memory_bytes": 5 * MIB, "share_of_samples": 0.5}
    ]
    assert found.warnings() == (
        "other processes were on the GPU: python (pid 7)",
        "GPU memory is the device's difference, which those processes may have moved",
    )


def test_a_gap_is_told() -> None:
    found = of(sample(0, server=1), sample(2.5, server=1))
    assert found.gpu["longest_gap_s"] == 2.5
    assert "did not answer for more than a second" in found.warnings()[0]


def test_short_throttling_and_power_caps_are_kept_but_no_warning() -> None:
    samples = [sample(i / 10, server=1, throttle=("power-cap",)) for i in range(19)]
    found = of(*samples, sample(1.9, server=1, throttle=("power-cap", "power-brake")))
    assert found.gpu["throttled"] == {"power-brake": 0.05, "power-cap": 1.0}
    assert found.warnings() == ()


def test_the_busiest_window_is_found_by_what_is_known() -> None:
    def at(**figures: list[float]) -> list[Sample]:
        [(name, values)] = figures.items()
        if name == "busy":
            return [sample(i, busy=value) for i, value in enumerate(values)]
        return [sample(i, **{name: value}) for i, value in enumerate(values)]

    load = [0.0, 0.0, 0.1, 0.9, 0.9, 0.0, 0.0]
    assert busiest_start(at(busy=load), 1) == 3
    assert busiest_start(at(utilization=load), 1) == 3
    assert busiest_start(at(power_watts=[50 + 100 * share for share in load]), 1) == 3
    assert busiest_start(at(busy=load), 10) is None
    assert busiest_start(at(used_bytes=load), 1) is None
