"""The page's content; how it looks is for tests/integration/test_report_page.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from planner.domain.check import check
from planner.domain.derive import Origin, derive_plan
from planner.domain.latency import CurvePoint
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import LatencyBasis, Objective, Problem
from planner.domain.verification import (
    SCHEMA_VERSION,
    DeviceVerification,
    Failure,
    ModelVerification,
    Verdict,
    Verification,
)
from planner.plan_files import plan_digest
from planner.report.markup import ROWS_SHOWN, Group, table
from planner.report.markup import Column as TableColumn
from planner.report.page import page
from tests.problems import GIB, devices, kind, model, option, problem


class _Text(HTMLParser):
    """The text of a page, and a list of its tags; an element that is closed wrongly is an error."""

    _VOID = frozenset({"meta", "rect", "line", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def _two_models(**changes: object) -> Problem:
    options = [
        option("ranker", "A100-80", memory_bytes=30 * GIB, curve=(CurvePoint(2000, 5000),), busy_ppm=(300_000,),
               latency_basis=LatencyBasis.CLOSED, source="estimated: a guess & no more"),
        option("vgg19", "A100-80", memory_bytes=10 * GIB, queue_delay_us=500, max_batch_size=8),
    ]  # fmt: skip
    models = [model("ranker", latency_bound_us=25_000), model("vgg19")]
    kinds = [kind("A100-80", memory_bytes=75 * GIB, server_base_bytes=GIB)]
    return problem(models, options, kinds=kinds, fleet=devices("A100-80", 4), **changes)  # type: ignore[arg-type]


def _plan(
    subject: Problem,
    placements: Sequence[tuple[str, str]],
    status: Status = Status.OPTIMAL,
    bounds: Sequence[tuple[float | None, str]] = ((1, "area"),),
) -> Plan:
    """`placements`: model and device, with the model's only option."""
    by_model = {o.model: o.id for o in subject.options}
    found = [
        Placement(replica=f"{name}-{number}", option=by_model[name], device=device)
        for number, (name, device) in enumerate(placements, 1)
    ]
    return derive_plan(subject, found, Origin(status=status, solver="cpsat", seed=0, runtime_s=0.5, bounds=bounds))


BOTH = (("ranker", "A100-80/0"), ("vgg19", "A100-80/0"))


def _read(subject: Problem, plan: Plan, verification: Verification | None = None) -> str:
    violations = [str(violation) for violation in check(subject, plan)]
    return _Text(page(subject, plan, verification, violations)).text


def test_the_answer_stands_first() -> None:
    subject = _two_models()
    text = _read(subject, _plan(subject, BOTH))
    assert "optimal 1 of 4 GPUs serve all 2 models with 2 replicas, for 1.00 USD per hour." in text
    assert "Proven: no plan does better in GPUs used." in text
    assert text.index("1 of 4 GPUs") < text.index("Fleet") < text.index("Objectives")


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        ((1, "area"), "A better plan may exist. GPUs used: 2; proven: at least 1, a gap of 50.0%."),
        ((None, "none"), "A better plan may exist. GPUs used: 2; no bound was proved."),
        ((2, "area"), "Every objective stands at its proven bound."),
    ],
)
def test_what_is_not_proven_is_said(bound: tuple[float | None, str], expected: str) -> None:
    subject = _two_models()
    apart = [("ranker", "A100-80/0"), ("vgg19", "A100-80/1")]
    assert expected in _read(subject, _plan(subject, apart, Status.FEASIBLE, [bound]))


def test_what_the_plan_rests_on() -> None:
    subject = _two_models()
    text = _read(subject, _plan(subject, BOTH))
    assert "Not verified: planner verify" in text
    assert "Uncalibrated. Replicas on estimated, fitted, published or imported profiles: 1 of 2." in text
    assert "Source of profiles, estimated: a guess & no more" in text
    assert "Replicas without a latency objective: 1 of 2" in text
    assert "closed-loop" in text


def test_a_calibrated_plan_on_measured_profiles_says_so() -> None:
    subject = _two_models()
    subject = replace(
        subject,
        kinds=tuple(replace(k, calibrated=True) for k in subject.kinds),
        options=tuple(replace(o, source="measured") for o in subject.options),
    )
    text = _read(subject, _plan(subject, BOTH))
    assert "Calibrated. Every replica rests on measured profiles." in text
    assert "Replicas on measured profiles: 2 of 2" in text


def test_a_replica_with_its_figures() -> None:
    subject = _two_models()
    text = _read(subject, _plan(subject, BOTH))
    assert "A100-80/0 A100-80 · memory 41.0 GiB of 75.0 GiB · busy 40%" in text
    assert "ranker-1 1 x 1 off 1 1 p99 10 ms 25 ms 30.0 GiB 30%" in text
    assert "vgg19-2 1 x 8 on, 500 µs 1 1 - - 10.0 GiB 10%" in text


def test_what_is_not_served_is_said_first_and_in_a_table() -> None:
    subject = _two_models(allow_unserved=True)
    text = _read(subject, _plan(subject, BOTH[:1]))
    assert "serve 1 of 2 models in full" in text
    assert "Not served: 1 requests per second of 1 model." in text
    assert "vgg19 1 the devices are full" in text


def test_violations_are_loud() -> None:
    subject = _two_models()
    small = replace(subject, kinds=tuple(replace(k, memory_bytes=20 * GIB) for k in subject.kinds))
    text = _read(small, _plan(small, BOTH))
    assert text.index("breaks rules") < text.index("Do not deploy: this plan breaks") < text.index("Fleet")
    assert "gpu-memory: A100-80/0:" in text
    assert "Proven" not in text


def test_a_plan_of_another_problem_is_still_a_page() -> None:
    subject = _two_models()
    plan = _plan(subject, BOTH)
    strange = replace(plan, replicas=(replace(plan.replicas[0], option="unknown", model="unknown"),))
    text = _read(subject, strange)
    assert "The map cannot be drawn: replica 'ranker-1' has the option 'unknown'" in text
    assert "Do not deploy" in text


def test_an_empty_plan() -> None:
    subject = _two_models(allow_unserved=True)
    text = _read(subject, _plan(subject, ()))
    assert "2 models on no device" in text
    assert "Nothing is placed." in text


def test_devices_without_a_gpu_are_not_called_gpus() -> None:
    subject = problem(options=[option(kind_name="cpu-1")], kinds=[kind("cpu-1", cores=1)], fleet=devices("cpu-1"))
    assert "1 of 1 devices serve all 1 model with 1 replica" in _read(subject, _plan(subject, [("m", "cpu-1/0")]))


def test_names_never_become_markup() -> None:
    name = "</td><script>alert('x')</script>\"&"
    subject = problem([model(name)], [option(name, id="o")])
    text = page(subject, _plan(subject, [(name, "big/0")]), _verification(_plan(subject, [(name, "big/0")])), [name])
    read = _Text(text)
    assert "script" not in read.tags
    assert name in read.text


def test_the_page_loads_nothing() -> None:
    subject = _two_models()
    text = page(subject, _plan(subject, BOTH), None, [])
    assert not re.search(r"""https?://|\bsrc=|\bhref=|url\(|@import""", text)


def test_every_objective_has_a_name() -> None:
    order = tuple(Objective)
    subject = _two_models(objectives=order, allow_unserved=True)
    text = _read(subject, _plan(subject, BOTH, Status.FEASIBLE, [(None, "none")] * len(order)))
    assert "growth of all rates that fits" in text


def test_a_bound_of_what_is_maximised_is_an_upper_one() -> None:
    subject = _two_models(objectives=[Objective.MODELS])
    assert "models served 2 at most 2 0.0% area" in _read(subject, _plan(subject, BOTH, bounds=[(2, "area")]))


def test_long_tables_are_cut_and_say_so() -> None:
    groups = [
        Group("g", [[str(i)] for i in range(150)]),
        Group("h", [[f"x{i}"] for i in range(80)]),
        Group("i", [["y"]]),
    ]
    read = _Text(table("numbers", [TableColumn("n")], groups, "rows in plan.json"))
    assert read.tags.count("td") == ROWS_SHOWN
    assert "… and 31 more rows in plan.json" in read.text


def _verification(plan: Plan, *models: ModelVerification, failure: Failure | None = None) -> Verification:
    device = DeviceVerification(
        device="A100-80/0", type="A100-80", period="all", seconds=42, memory_bytes_predicted=40 * GIB,
        memory_bytes_measured=None if failure else 38 * GIB, busy_predicted=0.4,
        busy_measured=None if failure else 0.37, models=models, failure=failure,
    )  # fmt: skip
    return Verification(
        schema_version=SCHEMA_VERSION, plan_digest=plan_digest(plan), rates="planned", load_generator="builtin",
        notes=("one after another",), devices=(device,),
    )  # fmt: skip


def _verified_model(verdict: Verdict | None, measured_ms: float | None = 18.0, **changes: object) -> ModelVerification:
    values: dict[str, object] = {
        "replica": "ranker-1", "model": "ranker", "rate_rps": 1.0, "completed": 2500, "failed": 0, "percentile": 99,
        "bound_ms": 25.0, "predicted_ms": 20.0, "expected_ms": 19.0, "measured_ms": measured_ms,
        "measured_low_ms": measured_ms and measured_ms - 1, "measured_high_ms": measured_ms and measured_ms + 2,
        "error": None if measured_ms is None else 20 / measured_ms - 1, "expected_error": None,
        "memory_bytes_predicted": 30 * GIB, "memory_bytes_measured": None, "busy_predicted": 0.3,
        "busy_measured": None, "verdict": verdict, "reason": None,
    }  # fmt: skip
    return ModelVerification(**(values | changes))  # type: ignore[arg-type]


def _verified(*models: ModelVerification, failure: Failure | None = None) -> str:
    subject = _two_models()
    plan = _plan(subject, BOTH)
    return _read(subject, plan, _verification(plan, *models, failure=failure))


def test_predicted_stands_beside_measured() -> None:
    text = _verified(_verified_model(Verdict.MET))
    assert "Verified on a real Triton." in text
    assert "ranker-1 1 25 20 p99 18 17 to 20 +11% ✓ met" in text
    assert "A100-80/0 40.0 GiB 38.0 GiB (+5%) 40% 37%" in text
    assert "one after another" in text


def test_a_missed_bound_is_a_failed_verification() -> None:
    text = _verified(_verified_model(Verdict.MISSED, 40.0))
    assert text.index("Verification failed.") < text.index("Fleet")
    assert "✗ missed" in text


def test_an_unclear_verdict_has_its_reason() -> None:
    text = _verified(_verified_model(Verdict.UNCLEAR, 24.0, measured_high_ms=None, reason="too few requests"))
    assert "Verified in part." in text
    assert "above 23" in text
    assert "ranker-1: too few requests" in text


def test_a_model_without_a_bound_has_no_verdict() -> None:
    text = _verified(_verified_model(None, bound_ms=None, measured_low_ms=None, predicted_ms=None, error=None))
    assert "ranker-1 1 - - p99 18 below 20 - -" in text


def test_memory_and_busy_per_model_where_they_are_known() -> None:
    text = _verified(_verified_model(Verdict.MET, memory_bytes_measured=29 * GIB, busy_measured=0.28))
    assert "ranker-1 30.0 GiB 29.0 GiB (+3%) 30% 28%" in text


def test_a_server_that_failed_shows_its_log() -> None:
    failure = Failure(message="tritonserver ended with exit code 137", log_tail="E <out of memory>")
    text = _verified(_verified_model(Verdict.UNCLEAR, None, reason="its server failed"), failure=failure)
    assert "The server of A100-80/0 failed tritonserver ended with exit code 137 E <out of memory>" in text
    assert "not measured 40% not measured" in text
    assert "Verification failed." in text


def test_periods_are_compared_where_there_are_several() -> None:
    options = [option("a", busy_ppm=(700_000, 100_000)), option("b", busy_ppm=(100_000, 300_000))]
    subject = problem([model("a", (1000, 100)), model("b", (300, 1000))], options, periods=("day", "night"))
    placements = [Placement(replica=name, option=f"{name}@big", device="big/0") for name in "ab"]
    origin = Origin(status=Status.FEASIBLE, solver="test", seed=0, runtime_s=0.0, bounds=[(None, "none")])
    plan = derive_plan(subject, placements, origin)
    assert "day 1.3 big/0 80% 1 night 1.1 big/0 40% 0" in _Text(page(subject, plan, None, [])).text
    assert "Periods" not in _Text(page(problem(), derive_plan(problem(), [], origin), None, [])).text
