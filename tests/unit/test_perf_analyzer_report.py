"""Reading what perf_analyzer leaves behind; the texts are as version 2.60.0 writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode, LoadResult, LoadSummary
from planner.errors import LoadError, TritonUnreachable
from profiler.devices.cpu import Usage
from profiler.load.perf_analyzer_report import (
    Export,
    ExportCutOff,
    closed_window,
    delayed_share,
    failed_request,
    open_window,
    passes_of,
    read_export,
    read_summary,
)
from profiler.points import LoadPoint
from profiler.stability import stability_of_parts
from profiler.triton_statistics import statistics_delta
from profiler.window import Window

PRINTED = """\
Request concurrency: 4
  Pass [1] throughput: 534.109 infer/sec. Avg latency: 6702 usec (std 3072 usec).
  Pass [2] throughput: 570.386 infer/sec. Avg latency: 6374 usec (std 3065 usec).
  Pass [3] throughput: 634.971 infer/sec. Avg latency: 5793 usec (std 2183 usec).
  Client:
    Request count: 5340
    Throughput: 579.94 infer/sec
"""
REPORT = """\
Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency
4,579.94,11,5507,9392,11461,17074,6262
"""


def exported(requests: Sequence[tuple[int, int]], edges: Sequence[int]) -> bytes:
    entries = [
        {
            "timestamp": sent,
            "request_inputs": {"timestamp": 5, "text": '{"timestamp":7,"request_inputs":'},
            "response_timestamps": [answered],
            "response_outputs": [{"y": [0.5, 1.0]}],
        }
        for sent, answered in requests
    ]
    experiment = {"experiment": {"mode": "concurrency", "value": 2}, "requests": entries}
    whole = {"experiments": [{**experiment, "window_boundaries": list(edges)}], "version": "0.0.0"}
    return json.dumps(whole, separators=(",", ":")).encode()


def test_an_export_is_read_in_order_of_completion() -> None:
    second = 10**9
    export = read_export(exported([(3 * second, 9 * second), (4 * second, 5 * second)], [2 * second, 10 * second]))
    assert export == Export(2.0, 10.0, (4.0, 3.0), (5.0, 9.0))


def test_an_export_that_is_cut_off_is_refused() -> None:
    whole = exported([(1, 2), (3, 4)], [0, 5])
    for size in (0, 40, whole.index(b"window_boundaries")):
        with pytest.raises(ExportCutOff, match="cut off"):
            read_export(whole[:size])


def test_a_closed_window_counts_what_was_answered_in_it() -> None:
    export = Export(0.0, 10.0, (1.0, 4.0, 6.0), (3.0, 6.0, 9.0))
    cut = closed_window(export, 5.0)
    assert (cut.start, cut.sent_s, cut.latency_s) == (5.0, (-1.0, 1.0), (2.0, 3.0))


def test_an_open_window_counts_from_the_intended_times() -> None:
    arrivals = [-0.5, 0.0, 0.2, 0.9, 1.5, 2.0]
    # the schedule began at 100; each left a little late, the third by much; the last two have no answer
    sent, answered = (99.51, 100.01, 100.41, 100.91), (99.6, 100.6, 100.5, 101.0)
    by_end = sorted(range(4), key=lambda index: answered[index])
    export = Export(99.0, 102.0, tuple(sent[i] for i in by_end), tuple(answered[i] for i in by_end))
    cut = open_window(export, arrivals, 1.0)
    assert cut.start == pytest.approx(100.01)
    assert cut.sent_s == (0.2, 0.0, 0.9)
    assert cut.latency_s == pytest.approx((0.29, 0.59, 0.09))
    assert cut.lag_s == pytest.approx((0.2, 0.0, 0.0))
    with pytest.raises(LoadError, match="no request"):
        open_window(Export(0.0, 1.0, (), ()), arrivals, 1.0)


def test_a_summary_counts_requests_not_inferences() -> None:
    summary = read_summary(REPORT, PRINTED, 2)
    assert summary.answered == 5340
    assert summary.mean_s == pytest.approx(0.006262)
    assert summary.percentiles_s == pytest.approx({50: 0.005507, 90: 0.009392, 95: 0.011461, 99: 0.017074})
    assert summary.part_rates_rps == pytest.approx((267.0545, 285.193, 317.4855))
    assert summary.part_means_s == pytest.approx((0.006702, 0.006374, 0.005793))


@pytest.mark.parametrize(
    ("report", "printed", "message"),
    [
        ("", PRINTED, "printed no result"),
        (REPORT, "nothing", "printed no result"),
        (REPORT.replace("Avg latency", "Latency"), PRINTED, "no 'Avg latency'"),
        (REPORT.replace("17074", "-"), PRINTED, "no 'p99 latency'"),
    ],
)
def test_a_report_without_result_is_refused(report: str, printed: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        read_summary(report, printed, 1)


def test_what_is_printed() -> None:
    assert passes_of("Pass [1] cb::Error: No valid requests") == []
    assert len(passes_of(PRINTED)) == 3
    warned = "[WARNING] Perf Analyzer was not able to keep up. 12.50% of the requests were delayed. "
    assert (delayed_share(PRINTED), delayed_share(warned)) == (0.0, 0.125)
    assert failed_request(PRINTED) is None
    assert failed_request("x\nThread [0] had error: out of luck\n\nAt:\n") == "out of luck"


def summary_of(rates: Sequence[float], means: Sequence[float], answered: int = 3000) -> LoadSummary:
    return LoadSummary(answered, 0.01, {50: 0.01, 90: 0.02, 95: 0.03, 99: 0.04}, tuple(rates), tuple(means))


@pytest.mark.parametrize(
    ("rates", "means", "offered_rps", "stable", "overloaded"),
    [
        ((100, 101, 99), (0.01, 0.01, 0.01), None, True, False),
        ((100, 150, 60), (0.01, 0.01, 0.01), None, False, False),
        ((100, 101, 99), (0.01, 0.02, 0.01), None, False, False),
        ((100, 101, 99), (0.01, 0.02, 0.01), 100.0, True, False),
        ((100, 101, 99), (0.01, 0.06, 0.01), 100.0, False, False),
        ((80, 81, 79), (0.01, 0.01, 0.01), 100.0, False, True),
        ((100, 101, 99), (0.5, 1.5, 2.5), 100.0, False, True),
    ],
)
def test_parts_tell_whether_a_window_was_stable(
    rates: Sequence[float], means: Sequence[float], offered_rps: float | None, stable: bool, overloaded: bool
) -> None:
    found = stability_of_parts(summary_of(rates, means), 9.0, offered_rps)
    assert (found.stable, found.overloaded) == (stable, overloaded), found.reason
    assert (found.reason is None) == stable


def window_of(summary: LoadSummary) -> Window:
    """Triton's statistics could not be read before it."""
    result = LoadResult(
        model="m", seconds=30.0, sent_s=(), latency_s=(), offered=summary.answered, failed=0, first_error=None,
        client_busy=0.1, client_bound=False, summary=summary, load_generator="perf_analyzer",
        load_generator_version="2.60.0",
    )  # fmt: skip
    point = LoadPoint(LoadMode.CLOSED, "concurrency 4", concurrency=4)
    return Window(point, result, Usage(10, 5, 0.5, ((0.0, 10),), ((0.0, 0.0),)), 10, TritonUnreachable("no answer"), {})


def test_a_summary_fills_the_fields_that_requests_fill() -> None:
    row = ProfileRow(model="m", device="cpu-1", concurrency=4)
    window = window_of(summary_of((100, 101, 99), (0.01, 0.01, 0.01)))
    filled = window.fill(row, paid_once_bytes=4, cold_bytes=5)
    assert filled.rate_rps == pytest.approx(100)
    assert (filled.latency_mean_ms, filled.latency_p50_ms, filled.latency_p99_ms) == (10, 10, 40)
    assert (filled.memory_bytes, filled.memory_cold_bytes, filled.busy) == (6, 1, 0.5)
    assert (filled.load_generator, filled.stable, filled.executed_batch_mean) == ("perf_analyzer", True, None)
    remarks = window.remarks()
    assert (remarks["samples"], remarks["load_generator_version"]) == ("summary", "2.60.0")
    low, high = remarks["throughput_interval_rps"]  # type: ignore[misc]
    assert low == pytest.approx(100 - 4.303 / 3**0.5)
    assert high == pytest.approx(100 + 4.303 / 3**0.5)
    few = window_of(summary_of((100, 101, 99), (0.01, 0.01, 0.01), answered=500))
    assert few.fill(row, paid_once_bytes=0, cold_bytes=0).latency_p99_ms is None
    assert few.fill(row, paid_once_bytes=0, cold_bytes=0).latency_p95_ms == 30
    assert few.remarks()["percentiles_absent"] == ["p99 needs 2000 requests, the window had 500"]


def test_statistics_that_could_not_be_read_are_unknown() -> None:
    for before, after in ((TritonUnreachable("gone"), {}), ({}, TritonUnreachable("gone"))):
        delta = statistics_delta(before, after)
        assert delta["unknown"] == "gone"
        assert delta["executed_batch_mean"] is None
    known = statistics_delta({"model_stats": []}, {"model_stats": []})
    assert set(known) | {"unknown"} == set(delta)
