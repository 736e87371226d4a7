"""The run of a verification over a simulated bench: what is driven, in which order, and what goes wrong."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from planner.domain.ensemble import Ensemble, Member, Promise, Serve
from planner.domain.latency import CurvePoint
from planner.domain.plan import Plan, PlannedDevice
from planner.domain.problem import LatencyBasis, Option, Problem, Settings
from planner.domain.serving import Endpoint, LoadMode, LoadResult, LoadSpec, Server
from planner.domain.verification import DeviceVerification, Verdict, Verification
from planner.errors import InputError, LoadError, TritonExited, TritonRefused
from planner.plan_files import plan_digest
from planner.verify import VerifyReporter, VerifySettings, verify, window_seconds
from planner.verify_judge import Usage
from planner.verify_table import summary
from planner.verify_traffic import DeviceTraffic, device_traffic
from tests.plans import CPU, placed, replica_option
from tests.problems import model

MIB = 2**20


@dataclass
class SimulatedServer:
    """Nobody asks it anything: the bench makes up what a real one would have answered."""

    device: str
    endpoint: Endpoint
    pid: int | None = None

    def load(self, model: str, *, timeout_s: float = 120.0) -> None:
        raise NotImplementedError

    def statistics(self, model: str) -> Mapping[str, object]:
        raise NotImplementedError

    def log_tail(self, lines: int = 20) -> str:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class SimulatedBench:
    """A bench without servers. Latencies are exponential around `mean_ms`; nothing takes any time.

    `refuses` and `dies` name devices whose server does not start, or ends under the real load; `unloaded` those that
    no load can be put on.
    """

    load_generator = "simulated"

    def __init__(
        self,
        *,
        mean_ms: float = 2.0,
        refuses: Sequence[str] = (),
        dies: Sequence[str] = (),
        unloaded: Sequence[str] = (),
    ) -> None:
        self.mean_ms = mean_ms
        self.refuses = refuses
        self.dies = dies
        self.unloaded = unloaded
        self.driven: dict[str, list[Sequence[LoadSpec]]] = {}
        self.stopped: list[str] = []
        self.aborted = threading.Event()

    @contextmanager
    def start(self, device: PlannedDevice) -> Iterator[Server]:
        if device.device in self.refuses:
            raise TritonRefused("load failed: weights are missing", log_tail="the log of this server")
        self.driven[device.device] = []
        try:
            yield SimulatedServer(device.device, Endpoint("simulated", 1, 2, 3))
        finally:
            self.stopped.append(device.device)

    def drive(self, server: Server, specs: Sequence[LoadSpec]) -> tuple[list[LoadResult], Usage]:
        assert isinstance(server, SimulatedServer)
        self.driven[server.device].append(specs)
        if server.device in self.dies and specs[0].mode is LoadMode.OPEN:
            raise TritonExited("Triton ended by signal SIGKILL")
        if server.device in self.unloaded:
            raise LoadError("the load generator ended with exit code 3")
        return [self.result(spec) for spec in specs], Usage(100 * MIB, 0.1, {"a": 50 * MIB}, {"a": 0.05})

    def abort(self) -> None:
        self.aborted.set()

    def result(self, spec: LoadSpec) -> LoadResult:
        rng = random.Random(f"{spec.model} {spec.seed}")
        count = round((spec.rate_rps or 0) * spec.seconds)
        return LoadResult(
            model=spec.model,
            seconds=spec.seconds,
            sent_s=tuple(i * spec.seconds / max(1, count) for i in range(count)),
            latency_s=tuple(rng.expovariate(1000 / self.mean_ms) for _ in range(count)),
            offered=count,
            failed=0,
            first_error=None,
            client_busy=0.1,
            client_bound=False,
        )


class SlowBench(SimulatedBench):
    """Real loads wait for each other; `interrupted` is where somebody presses Ctrl-C meanwhile."""

    def __init__(self, together: int, *, interrupted: str | None = None) -> None:
        super().__init__()
        self.meeting = threading.Barrier(together)
        self.interrupted = interrupted

    def drive(self, server: Server, specs: Sequence[LoadSpec]) -> tuple[list[LoadResult], Usage]:
        assert isinstance(server, SimulatedServer)
        if specs[0].mode is LoadMode.OPEN:
            self.meeting.wait(10)
            if server.device == self.interrupted:
                raise KeyboardInterrupt
            if self.interrupted is not None:
                assert self.aborted.wait(10)
                raise TritonExited("the verification was interrupted")
        return super().drive(server, specs)


def curve_option(name: str, **changes: object) -> Option:
    """Capacity 100 req/s at 0.3 of the device's time; alone 8 ms up to 100 req/s and 10 ms up to 300."""
    values: dict[str, object] = {
        "capacity_mrps": 100_000,
        "busy_ppm": (300_000,),
        "curve": (CurvePoint(100_000, 8_000), CurvePoint(300_000, 10_000)),
        "latency_basis": LatencyBasis.OPEN,
        "max_batch_size": 4,
    }
    return replica_option(name, "cpu-1", **(values | changes))


def two_devices(**changes: object) -> tuple[Problem, Plan]:
    """a and b on n1/0, c on n1/1: each can take 100 req/s; 50 are asked of a and b, 100 of c."""
    options = [curve_option(name) for name in "abc"]
    asked = {"a": 50_000, "b": 50_000, "c": 100_000}
    models = [model(name, mrps, latency_bound_us=40_000) for name, mrps in asked.items()]
    return placed(options, {"n1/0": ["a@cpu-1", "b@cpu-1"], "n1/1": ["c@cpu-1"]}, kinds=[CPU], models=models, **changes)  # type: ignore[arg-type]


def run(
    bench: SimulatedBench,
    *,
    planned: tuple[Problem, Plan] | None = None,
    waves: Sequence[Sequence[str]] = (("n1/0",), ("n1/1",)),
    reporter: VerifyReporter | None = None,
    notes: Sequence[str] = (),
    **settings: object,
) -> Verification:
    problem, plan = planned or two_devices()
    chosen = VerifySettings(**settings)  # type: ignore[arg-type]
    return verify(problem, plan, bench, chosen, waves=waves, notes=notes, reporter=reporter)


def traffic(planned: tuple[Problem, Plan], factor: float | None, device: int = 0) -> DeviceTraffic:
    from planner.domain.layout import Layout

    problem, plan = planned
    layout = Layout(problem, plan.placements())
    return device_traffic(layout, plan, layout.devices[device], factor)


def test_every_device_is_verified_and_recorded() -> None:
    planned = two_devices()
    bench = SimulatedBench()
    found = run(bench, planned=planned, notes=["a note"])
    assert [device.device for device in found.devices] == ["n1/0", "n1/1"]
    assert [(m.model, m.verdict, m.completed) for m in found.models()] == [
        ("a", Verdict.MET, 2200),
        ("b", Verdict.MET, 2200),
        ("c", Verdict.MET, 2200),
    ]
    assert found.complete
    assert (found.rates, found.load_generator, found.notes) == ("planned", "simulated", ("a note",))
    assert found.plan_digest == plan_digest(planned[1])
    assert bench.stopped == ["n1/0", "n1/1"]
    first = found.devices[0]
    assert (first.memory_bytes_measured, first.busy_measured, first.seconds) == (100 * MIB, 0.1, 44.0)
    assert [m.memory_bytes_measured for m in first.models] == [50 * MIB, None]


def in_ensemble(serve: Serve, percentile: float = 99) -> tuple[Problem, Plan]:
    """a and b of `two_devices` without bounds of their own, called once and twice by an ensemble at 20 req/s."""
    curve = (CurvePoint(300_000, 10_000),)
    options = [
        curve_option(name, promises=(Promise(percentile=percentile, latency_us=us, curve=curve),))
        for name, us in (("a", 40_000), ("b", 50_000))
    ]
    ensemble = Ensemble(
        name="both", demand_mrps=(20_000,), percentile=95, bound_us=200_000, call_percentile=percentile, serve=serve,
        members=(Member(model="a"), Member(model="b", calls=2, depth=2)), edges=(("a", "b"),),
    )  # fmt: skip
    models = [model("a", 50_000), model("b", 40_000)]
    on = {"n1/0": ["a@cpu-1", "b@cpu-1"]}
    return placed(options, on, kinds=[CPU], models=models, ensembles=(ensemble,))


def test_an_ensemble_that_triton_serves_is_driven_from_end_to_end() -> None:
    bench = SimulatedBench()
    found = run(bench, planned=in_ensemble(Serve.TRITON), waves=[("n1/0",)])
    warm_up, real = bench.driven["n1/0"]
    assert [spec.model for spec in warm_up] == ["a", "b"]
    # Of a's 50 req/s the server makes 20 itself; all that b is asked for are calls of the ensemble.
    assert [(spec.model, spec.rate_rps) for spec in real] == [("a", 30.0), ("both", 20.0)]
    whole = {m.replica: m for m in found.models()}["ensemble both"]
    assert (whole.percentile, whole.bound_ms, whole.predicted_ms) == (95, 200, 40 + 2 * 50)
    assert (whole.verdict, whole.is_ensemble) == (Verdict.MET, True)
    assert [m.reason for m in found.models() if m.model == "b"] == ["all of its calls come through its ensemble"]
    assert found.notes == ()

    bench = SimulatedBench()
    run(bench, planned=in_ensemble(Serve.TRITON), waves=[("n1/0",)], rates="full")
    assert [(spec.model, spec.rate_rps) for spec in bench.driven["n1/0"][1]] == [("a", 50.0), ("both", 50.0)]


def test_an_ensemble_that_misses_its_bound_is_named() -> None:
    found = run(SimulatedBench(mean_ms=200), planned=in_ensemble(Serve.TRITON), waves=[("n1/0",)])
    assert [m.replica for m in found.models() if m.verdict is Verdict.MISSED] == ["ensemble both"]


def test_of_an_ensemble_that_clients_call_the_members_are_verified() -> None:
    bench = SimulatedBench()
    found = run(bench, planned=in_ensemble(Serve.CLIENT), waves=[("n1/0",)])
    assert [(spec.model, spec.rate_rps) for spec in bench.driven["n1/0"][1]] == [("a", 50.0), ("b", 40.0)]
    assert [(m.model, m.percentile, m.bound_ms, m.verdict) for m in found.models()] == [
        ("a", 99, 40, Verdict.MET),
        ("b", 99, 50, Verdict.MET),
    ]
    assert found.notes == (
        "ensemble both: clients call its members, so these were verified, and not the whole; it keeps its bound where "
        "each keeps the p99 that the plan gives it",
    )


def test_a_percentile_beyond_p99_is_not_waited_for_longer_than_allowed() -> None:
    found = run(SimulatedBench(), planned=in_ensemble(Serve.CLIENT, 99.924), waves=[("n1/0",)])
    assert found.devices[0].seconds == 55  # 2,200 requests at 40 req/s
    assert found.devices[0].models[0].reason == "p99.924 needs 26,316 requests, the window of 55 s had 2,750"


def test_full_batches_warm_up_every_instance_before_the_real_traffic() -> None:
    bench = SimulatedBench()
    run(bench, seed=7, shapes={"b": {"x": (3, 4)}})
    warm_up, real = bench.driven["n1/0"]
    assert [(s.model, s.mode, s.concurrency, s.rate_rps) for s in warm_up] == [
        ("a", LoadMode.CLOSED, 8, None),
        ("b", LoadMode.CLOSED, 8, None),
    ]
    assert [(s.model, s.mode, s.concurrency, s.rate_rps, s.seed) for s in real] == [
        ("a", LoadMode.OPEN, None, 50.0, 7),
        ("b", LoadMode.OPEN, None, 50.0, 8),
    ]
    assert all(spec.warmup_seconds > 0 for spec in real)
    assert [s.shapes for s in (*warm_up, *real)] == [{}, {"x": (3, 4)}] * 2


@pytest.mark.parametrize(("rates", "of_a", "of_c"), [("planned", 50, 100), ("full", 100, 100), ("0.5", 25, 50)])
def test_rates_are_planned_full_or_a_factor(rates: str, of_a: float, of_c: float) -> None:
    bench = SimulatedBench()
    assert run(bench, rates=rates).rates == rates
    assert [spec.rate_rps for spec in bench.driven["n1/0"][1]] == [of_a, of_a]
    assert [spec.rate_rps for spec in bench.driven["n1/1"][1]] == [of_c]


def test_a_device_that_cannot_be_driven_is_recorded_and_the_others_go_on() -> None:
    found = run(SimulatedBench(refuses=["n1/0"]))
    refused, good = found.devices
    assert refused.failure is not None
    assert refused.failure.message == "load failed: weights are missing"
    assert refused.failure.log_tail == "the log of this server"
    assert {m.reason for m in refused.models} == {"its server failed"}
    assert good.failure is None
    assert not found.complete

    bench = SimulatedBench(dies=["n1/1"])
    good, dead = run(bench).devices
    assert good.failure is None
    assert dead.failure is not None
    assert (dead.failure.message, dead.failure.log_tail) == ("Triton ended by signal SIGKILL", "")
    assert bench.stopped == ["n1/0", "n1/1"]

    bench = SimulatedBench(unloaded=["n1/0"])
    found = run(bench)
    unloaded, good = found.devices
    assert unloaded.failure is not None
    assert unloaded.failure.message == "the load generator ended with exit code 3"
    assert {m.verdict for m in unloaded.models} == {Verdict.UNCLEAR}
    assert good.failure is None
    assert not found.complete
    assert bench.stopped == ["n1/0", "n1/1"]


def test_devices_of_a_wave_run_at_the_same_time() -> None:
    found = run(SlowBench(together=2), waves=[("n1/0", "n1/1")])
    assert [device.device for device in found.devices] == ["n1/0", "n1/1"]
    assert found.complete


def test_a_dead_server_does_not_end_the_others_of_its_wave() -> None:
    found = run(SimulatedBench(refuses=["n1/0"]), waves=[("n1/0", "n1/1")])
    assert [device.failure is None for device in found.devices] == [False, True]


def test_only_the_devices_named_are_verified() -> None:
    bench = SimulatedBench()
    found = run(bench, waves=[("n1/1",)])
    assert [device.device for device in found.devices] == ["n1/1"]
    assert list(bench.driven) == ["n1/1"]
    assert run(bench, waves=[]).devices == ()


@pytest.mark.parametrize("interrupted", ["n1/0", "n1/1"])
def test_an_interruption_ends_the_whole_wave(interrupted: str) -> None:
    bench = SlowBench(together=2, interrupted=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(bench, waves=[("n1/0", "n1/1")])
    assert bench.aborted.is_set()
    assert sorted(bench.stopped) == ["n1/0", "n1/1"]


def test_an_interruption_of_a_device_alone_stops_its_server() -> None:
    bench = SlowBench(together=1, interrupted="n1/0")
    with pytest.raises(KeyboardInterrupt):
        run(bench)
    assert bench.stopped == ["n1/0"]


def test_an_interruption_keeps_what_was_finished() -> None:
    class InterruptedBench(SimulatedBench):
        def drive(self, server: Server, specs: Sequence[LoadSpec]) -> tuple[list[LoadResult], Usage]:
            assert isinstance(server, SimulatedServer)
            if server.device == "n1/1":
                raise KeyboardInterrupt
            return super().drive(server, specs)

    found = run(InterruptedBench(), waves=[("n1/0",), ("n1/1",)])
    assert [device.device for device in found.devices] == ["n1/0"]
    assert (found.interrupted, found.complete) == (True, False)
    assert "interrupted, the other devices were not verified" in summary(found)


def test_a_device_without_traffic_is_started_and_not_driven() -> None:
    option = curve_option("a")
    idle = model("a", 0, replicas_min=1, latency_bound_us=40_000)
    bench = SimulatedBench()
    found = run(bench, planned=placed([option], {"n1/0": [option.id]}, kinds=[CPU], models=[idle]), waves=[["n1/0"]])
    assert bench.driven == {"n1/0": []}
    [only] = found.models()
    assert (only.verdict, only.reason) == (Verdict.UNCLEAR, "no traffic is planned in this period")


def test_the_reporter_hears_of_every_device() -> None:
    heard: list[object] = []

    class Reporter(VerifyReporter):
        def device(self, device: str, seconds: float, number: int, total: int) -> None:
            heard.append((device, seconds, number, total))

        def verified(self, found: DeviceVerification) -> None:
            heard.append(found.device)

    run(SimulatedBench(), reporter=Reporter())
    assert heard == [("n1/0", 44.0, 1, 2), "n1/0", ("n1/1", 22.0, 2, 2), "n1/1"]


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [({}, 44.0), ({"max_seconds": 20.0}, 20.0), ({"max_seconds": 20.5}, 20.5), ({"min_seconds": 60.0}, 60.0)],
)
def test_a_window_is_as_long_as_its_slowest_stream_needs_within_limits(
    limits: dict[str, float], seconds: float
) -> None:
    assert window_seconds(traffic(two_devices(), 1.0), VerifySettings(**limits)) == seconds  # type: ignore[arg-type]


def test_the_busiest_period_of_each_device_is_driven() -> None:
    options = [curve_option(name, busy_ppm=(300_000, 300_000)) for name in "ab"]
    models = [
        model("a", (90_000, 10_000), latency_bound_us=40_000),
        model("b", (20_000, 80_000), latency_bound_us=40_000),
    ]
    apart = placed(
        options,
        {"n1/0": ["a@cpu-1"], "n1/1": ["b@cpu-1"]},
        kinds=[CPU],
        models=models,
        periods=("day", "night"),
    )
    found = run(SimulatedBench(), planned=apart)
    assert [(device.period, device.models[0].rate_rps) for device in found.devices] == [("day", 90.0), ("night", 80.0)]


def test_busy_time_in_a_quiet_period_is_that_of_its_rate() -> None:
    # a takes 30 % by day; at night a fifth of the traffic takes a fifth of that, whatever else is busiest then.
    a, b = curve_option("a", busy_ppm=(300_000, 60_000)), curve_option("b", busy_ppm=(30_000, 600_000))
    models = [
        model("a", (100_000, 20_000), latency_bound_us=40_000),
        model("b", (5_000, 100_000), latency_bound_us=40_000),
    ]
    together = placed([a, b], {"n1/0": [a.id, b.id]}, kinds=[CPU], models=models, periods=("day", "night"))
    night = traffic(together, 1.0)
    assert (night.period, [replica.busy for replica in night.replicas]) == ("night", [0.06, 0.6])


def test_what_is_predicted_is_predicted_at_the_driven_rate() -> None:
    a, b = traffic(two_devices(), 1.0).replicas
    # Half of the capacity, so half of its busy time; b beside it stretches a by 2 (one instance) and by
    # 1 / (1 - 0.15) where it is fast.
    assert (a.rate_rps, a.busy, a.bound_ms, a.percentile) == (50.0, 0.15, 40.0, 99)
    assert a.promised_ms == pytest.approx(16.0)
    assert a.expected_ms == pytest.approx(8 / 0.85, abs=1e-3)
    assert (b.promised_ms, b.expected_ms) == (a.promised_ms, a.expected_ms)
    [alone] = traffic(two_devices(), 1.0, device=1).replicas
    assert (alone.busy, alone.promised_ms, alone.expected_ms) == (0.3, 8.0, 8.0)


def test_a_plan_that_trusts_fast_neighbours_promises_what_it_expects() -> None:
    a, _ = traffic(two_devices(settings=Settings(optimistic_latency=True)), 1.0).replicas
    assert a.promised_ms == a.expected_ms


def test_full_capacity_is_predicted_as_the_plan_promises_it() -> None:
    problem, plan = two_devices()
    promised = {replica.model: replica.periods[0].latency_ms for replica in plan.replicas}
    for device in (0, 1):
        for replica in traffic((problem, plan), None, device).replicas:
            assert replica.promised_ms == promised[replica.model]


def test_nothing_is_predicted_where_nothing_was_measured() -> None:
    a, _ = traffic(two_devices(), 5.0).replicas
    assert (a.rate_rps, a.promised_ms) == (250.0, None)
    option = replica_option("a", "cpu-1", curve=())
    [bare] = traffic(placed([option], {"n1/0": [option.id]}), 1.0).replicas
    assert (bare.promised_ms, bare.expected_ms) == (None, None)


@pytest.mark.parametrize("rates", ["", "plan", "0", "-1", "nan", "inf", "1,2"])
def test_rates_that_are_none_are_refused(rates: str) -> None:
    with pytest.raises(InputError, match="rates must be planned, full or a number > 0"):
        VerifySettings(rates=rates)


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="the longest window must be at least 10 s, got 5"):
        VerifySettings(max_seconds=5.0)
    with pytest.raises(InputError, match="longest window"):
        replace(VerifySettings(), min_seconds=0.0)
