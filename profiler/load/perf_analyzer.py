"""NVIDIA's perf_analyzer as load generator: one process per run, its windows cut to ours.

It measures as it is told to here, once: three windows of its own make one of ours, and its search for
stability is switched off, because that is judged from the result. Poisson arrivals are ours, the same ones as
the built-in generator's: `--request-intervals` takes them, so that latency counts from the intended send time.

Where requests and answers are small, its profile export gives every request's times. That export writes every
value sent and received, too: for large tensors it takes longer than the measurement, and all memory. Then its
own report over all requests is taken.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from planner.domain.serving import Endpoint, LoadMode, LoadResult, LoadSpec, LoadSummary, Server, Transport
from planner.domain.statistics import percentile
from planner.errors import LoadError
from profiler.load import leash
from profiler.load.arrivals import LAG_ALLOWED_S, allowed_lag_s, arrival_generator, poisson_arrivals
from profiler.load.child import check_spec, end_group
from profiler.load.perf_analyzer_binary import PerfAnalyzerBinary
from profiler.load.perf_analyzer_report import (
    CountedWindow,
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
from profiler.load.requests import (
    has_text_ids,
    inferences,
    input_data_file,
    is_stateful,
    requests_of,
    sequence_length,
    sequence_slots,
    values_per_request,
)
from profiler.load.silence import Silence

# A value costs perf_analyzer 0.15 to 0.4 us after the window, 20 bytes of file and about 70 bytes of memory.
EXPORT_VALUES_PER_REQUEST_MAX = 4096
EXPORT_VALUES_MAX = 10_000_000
CLIENT_BOUND_CPU = 0.9
CLIENT_BOUND_DELAYED = 0.1

_PASSES = 3
# A window lasts 1.2 times as long as --measurement-interval asks for.
_STRETCH = 1.2
_LEAD_S = 0.5
_DRAIN_S = 0.5
_DRAINS_PER_SLOWEST = 3.0
_POLL_S = 0.1
_SCHEDULE_SPARE_S = 5.0
# Of a run's windows; and for its start, its export and its end.
_OVERTIME = 0.5
_START_AND_STOP_S = 40.0
_SENDERS_MAX = 4
# One request of a sequence at a time: one that leaves late has waited for its sequence, not for perf_analyzer.
_SERIAL = "--serial-sequences"


@dataclass(frozen=True, slots=True)
class _Run:
    """What one perf_analyzer did. `cpu` is its CPU time over the monotonic clock, `passes_ended` that clock when
    the last of its windows was seen to end, `to_monotonic` what that clock is ahead of the system's."""

    said: str
    cpu: tuple[tuple[float, float], ...]
    passes_ended: float | None
    to_monotonic: float

    def busy(self, window: tuple[float, float], cores: int) -> float:
        """Its share of the CPU time of `cores` in a window of the monotonic clock."""
        times = [time_s for time_s, _ in self.cpu]
        if len(times) < 2:
            return 0.0
        first = max(0, bisect_left(times, window[0]) - 1)
        last = max(first + 1, min(len(times) - 1, bisect_left(times, window[1])))
        first = min(first, last - 1)
        (begin, before), (end, after) = self.cpu[first], self.cpu[last]
        return (after - before) / (end - begin) / cores


class PerfAnalyzerLoadGenerator:
    """Drives one stream at a time with `binary`, pinned to `cores` where given.

    In an open loop a request without an answer some time after the window counts as failed: at most `deadline_s`,
    and less where the model was faster so far. ServerError where the model stops to answer. LoadError where
    perf_analyzer fails, and for what it cannot do: several streams, secret headers, correlation ids that are texts,
    and going on after a request that failed.
    """

    name = "perf_analyzer"

    def __init__(
        self, binary: PerfAnalyzerBinary, cores: Sequence[int] | None = None, *, deadline_s: float = 10.0
    ) -> None:
        self.binary = binary
        self.cores = tuple(cores) if cores else None
        self.deadline_s = deadline_s
        self._slowest_s: dict[str, float] = {}
        self._fastest_rps: dict[str, float] = {}
        self._not_exportable: set[str] = set()

    def run(self, server: Server, specs: Sequence[LoadSpec]) -> list[LoadResult]:
        """See LoadGenerator; also InputError where a model's inputs cannot be made up."""
        if len(specs) != 1:
            raise LoadError("perf_analyzer puts load on one model at a time")
        [spec] = specs
        check_spec(spec)
        if server.endpoint.access.headers:
            raise LoadError("perf_analyzer takes headers on its command line, where every user of a machine reads them")
        config = _model_config(server, spec.model)
        with tempfile.TemporaryDirectory(prefix="planner-perf-analyzer-") as scratch:
            result = self._stream(server, spec, config, Path(scratch))
        fastest_rps = max(self._fastest_rps.get(spec.model, 0.0), result.answered / result.seconds)
        self._fastest_rps[spec.model] = fastest_rps
        return [replace(result, load_generator=self.name, load_generator_version=self.binary.version)]

    def _stream(self, server: Server, spec: LoadSpec, config: Any, scratch: Path) -> LoadResult:
        from numpy.random import default_rng

        data = scratch / "requests.json"
        streams = inferences(config, spec, default_rng([spec.seed, 0]))
        requests_of(config, spec, streams)  # InputError where inferences cannot be sent together
        data.write_text(input_data_file(streams, stateful=is_stateful(config)), encoding="utf-8")
        asked = [
            *("-m", spec.model, *_address(server.endpoint)),
            *("-b", str(spec.request_batch_size), "--input-data", str(data), "--async", "-v"),
            *("--max-trials", str(_PASSES), "--stability-percentage", "1000000"),
        ]
        if is_stateful(config):
            asked += _sequence_options(config, spec, sequence_length(spec, streams[0]))
        if spec.mode is LoadMode.OPEN:
            # several senders would reorder a sequence that one of them waits for
            senders = 1 if is_stateful(config) else min(_SENDERS_MAX, self._core_count())
            asked += ["--max-threads", str(senders)]
        if self._is_exportable(spec, values_per_request(config, spec.request_batch_size, streams)):
            try:
                return self._exported(server, spec, asked, scratch)
            except ExportCutOff:
                self._not_exportable.add(spec.model)
        return self._summarised(server, spec, asked, scratch)

    def _is_exportable(self, spec: LoadSpec, values: int | None) -> bool:
        if values is None or values > EXPORT_VALUES_PER_REQUEST_MAX or spec.model in self._not_exportable:
            return False
        expected_rps = spec.rate_rps or self._fastest_rps.get(spec.model, 0.0)
        return values * expected_rps * (spec.warmup_seconds + spec.seconds) <= EXPORT_VALUES_MAX

    def _exported(self, server: Server, spec: LoadSpec, asked: list[str], scratch: Path) -> LoadResult:
        """With every request's times, from the profile export."""
        export_file = scratch / "export.json"
        asked = [*asked, "--profile-export-file", str(export_file)]
        counted_s = spec.warmup_seconds + spec.seconds
        if spec.mode is LoadMode.CLOSED:
            run = self._run(server, spec, [*asked, *self._load(spec, (), scratch)], counted_s, scratch)
            cut = closed_window(_read(export_file, run), spec.seconds)
            return self._result(spec, run, cut, offered=len(cut.latency_s), drain_s=0.0)
        slowest_s = self._slowest_s.get(spec.model, self.deadline_s)
        drain_s = min(self.deadline_s, max(_DRAIN_S, _DRAINS_PER_SLOWEST * slowest_s))
        # the load stays on while the last answers that count come in
        arrivals_s = _arrivals(spec, -spec.warmup_seconds, spec.seconds + drain_s + _SCHEDULE_SPARE_S)
        asked += self._load(spec, arrivals_s, scratch, lead_s=_LEAD_S)
        run = self._run(server, spec, asked, _LEAD_S + counted_s + drain_s, scratch)
        cut = open_window(_read(export_file, run), arrivals_s, spec.seconds)
        if _SERIAL in asked:
            cut = replace(cut, lag_s=())
        offered = sum(0 <= arrival < spec.seconds for arrival in arrivals_s)
        return self._result(spec, run, cut, offered=offered, drain_s=drain_s)

    def _result(self, spec: LoadSpec, run: _Run, cut: CountedWindow, *, offered: int, drain_s: float) -> LoadResult:
        if cut.latency_s:
            self._slowest_s[spec.model] = max(cut.latency_s)
        start = cut.start + run.to_monotonic
        window = (start, start + spec.seconds)
        busy = run.busy(window, self._core_count())
        lag_s = percentile(cut.lag_s, 90) if cut.lag_s else 0.0
        failed = offered - len(cut.latency_s)
        return LoadResult(
            model=spec.model,
            seconds=spec.seconds,
            sent_s=tuple(round(value, 6) for value in cut.sent_s),
            latency_s=tuple(round(value, 6) for value in cut.latency_s),
            offered=offered,
            failed=failed,
            first_error=f"no answer within {drain_s:.3g} s after the window" if failed else None,
            client_busy=round(busy, 4),
            client_bound=busy > CLIENT_BOUND_CPU or lag_s > allowed_lag_s(cut.latency_s),
            window=window,
        )

    def _summarised(self, server: Server, spec: LoadSpec, asked: list[str], scratch: Path) -> LoadResult:
        """With figures over all requests, from the report."""
        report = scratch / "report.csv"
        # a few requests more or less do not matter here, and how many a closed loop makes is not known before
        warmup = 2 * (spec.concurrency or 0) or math.ceil((spec.rate_rps or 0.0) * spec.warmup_seconds)
        arrivals_s = _arrivals(spec, 0.0, spec.seconds) if spec.mode is LoadMode.OPEN else []
        load = self._load(spec, arrivals_s, scratch, lead_s=arrivals_s[0] if arrivals_s else 0.0)
        load += ["-f", str(report), "--verbose-csv"]
        load += ["--warmup-request-count", str(warmup)] if spec.warmup_seconds > 0 else []
        run = self._run(server, spec, [*asked, *load], spec.seconds, scratch)
        if not report.is_file():
            raise LoadError("perf_analyzer wrote no report", log_tail=_tail(run.said))
        summary = read_summary(report.read_text(), run.said, spec.request_batch_size)
        self._slowest_s[spec.model] = summary.percentiles_s[99]
        window = None if run.passes_ended is None else (run.passes_ended - spec.seconds, run.passes_ended)
        busy = 0.0 if window is None else run.busy(window, self._core_count())
        return LoadResult(
            model=spec.model,
            seconds=spec.seconds,
            sent_s=(),
            latency_s=(),
            offered=len(arrivals_s) or summary.answered,
            failed=0,
            first_error=None,
            client_busy=round(busy, 4),
            client_bound=busy > CLIENT_BOUND_CPU or (_SERIAL not in asked and _left_late(summary, run.said)),
            summary=summary,
            window=window,
        )

    def _load(self, spec: LoadSpec, arrivals_s: Sequence[float], scratch: Path, *, lead_s: float = 0.0) -> list[str]:
        if spec.mode is LoadMode.CLOSED:
            return ["--concurrency-range", f"{spec.concurrency}:{spec.concurrency}:1"]
        intervals = scratch / "intervals.txt"
        intervals.write_text(_intervals(arrivals_s, lead_s))
        return ["--request-intervals", str(intervals)]

    def _run(self, server: Server, spec: LoadSpec, asked: Sequence[str], seconds: float, scratch: Path) -> _Run:
        """perf_analyzer over windows that last `seconds` in all; nothing of it is left however this ends."""
        interval_ms = math.ceil(seconds * 1000 / _PASSES / _STRETCH)
        command = [
            *(sys.executable, "-I", leash.__file__, str(os.getpid()), ",".join(map(str, self.cores or ()))),
            *(*self.binary.command, *asked, "--measurement-interval", str(interval_ms)),
        ]
        printed = scratch / "printed"
        with printed.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(local=server.pid is not None),
                start_new_session=True,
            )
        try:
            silence = Silence(server, spec, self.deadline_s)
            cpu, passes_ended = _watch(process, server, printed, seconds, silence)
        finally:
            end_group(process)
        said = printed.read_text(errors="replace")
        # Requests that fail in its last window are printed and do not count, and it ends with 0.
        if (cause := failed_request(said)) is not None:
            raise LoadError(f"perf_analyzer does not go on after a failed request: {cause}", log_tail=_tail(said))
        if process.returncode != 0:
            raise LoadError(f"perf_analyzer {_how_it_ended(process.returncode, said)}", log_tail=_tail(said))
        return _Run(said, tuple(cpu), passes_ended, time.monotonic() - time.time())

    def _core_count(self) -> int:
        return len(self.cores or os.sched_getaffinity(0))


def _watch(
    process: subprocess.Popen[bytes], server: Server, printed: Path, seconds: float, silence: Silence
) -> tuple[list[tuple[float, float]], float | None]:
    """Wait for the end; CPU time over time on the way, and when the last of perf_analyzer's windows ended.

    ServerError where perf_analyzer waits for answers in vain, LoadError where it does not end for another reason.
    """
    import psutil

    cpu: list[tuple[float, float]] = []
    passes_ended = None
    observed = psutil.Process(process.pid)
    limit_s = seconds * (1 + _OVERTIME) + _START_AND_STOP_S
    begin = time.monotonic()
    late, end = begin + seconds * (1 + _OVERTIME), begin + limit_s
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
        now = time.monotonic()
        if passes_ended is None and len(passes_of(printed.read_text(errors="replace"))) == _PASSES:
            passes_ended = now
        if process.returncode is not None:
            server.raise_if_ended()
            return cpu, passes_ended
        try:
            times = observed.cpu_times()
            cpu.append((now, times.user + times.system))
        except psutil.NoSuchProcess:
            continue
        server.raise_if_ended()
        if now > late:
            silence.look(*cpu[-1])
        if now > end:
            said = printed.read_text(errors="replace")
            raise LoadError(f"perf_analyzer did not end within {limit_s:.0f} s", log_tail=_tail(said))


def _read(export_file: Path, run: _Run) -> Export:
    if not export_file.is_file():
        raise LoadError("perf_analyzer wrote no profile export", log_tail=_tail(run.said))
    return read_export(export_file.read_bytes())


def _model_config(server: Server, model: str) -> Any:
    from profiler.server.client import control_client

    client = control_client(server.endpoint, local=server.pid is not None)
    try:
        return client.model_config(model)
    finally:
        client.close()


def _address(endpoint: Endpoint) -> list[str]:
    access = endpoint.access
    transport, address = access.transport.value, endpoint.address
    if not access.tls:
        return ["-i", transport, "-u", address]
    if access.transport is Transport.GRPC:
        files = {
            "--ssl-grpc-root-certifications-file": access.ca,
            "--ssl-grpc-certificate-chain-file": access.certificate,
            "--ssl-grpc-private-key-file": access.key,
        }
        secured = ["--ssl-grpc-use-ssl"]
    else:
        files = {
            "--ssl-https-ca-certificates-file": access.ca,
            "--ssl-https-client-certificate-file": access.certificate,
            "--ssl-https-private-key-file": access.key,
        }
        secured, address = [], f"https://{address}"
    given = [word for option, path in files.items() if path is not None for word in (option, str(path))]
    return ["-i", transport, "-u", address, *secured, *given]


def _sequence_options(config: Any, spec: LoadSpec, length: int) -> list[str]:
    if has_text_ids(config):
        raise LoadError(f"{spec.model!r} takes correlation ids as texts, perf_analyzer sends numbers")
    options = [_SERIAL]
    if spec.input_file is None or spec.sequences.length is not None:  # else each is as long as its stream
        options += ["--sequence-length", str(length), "--sequence-length-variation", "0"]
    if spec.mode is LoadMode.OPEN:
        options += ["--num-of-sequences", str(spec.sequences.live or sequence_slots(config))]
    return options


def _environment(*, local: bool) -> Mapping[str, str]:
    """A proxy from ours must not come between perf_analyzer and our own machine."""
    return {name: value for name, value in os.environ.items() if not (local and name.lower().endswith("_proxy"))}


def _arrivals(spec: LoadSpec, start_s: float, end_s: float) -> list[float]:
    assert spec.rate_rps is not None
    return poisson_arrivals(spec.rate_rps, start_s, end_s, arrival_generator(spec.seed, spec.model, 0))


def _intervals(arrivals_s: Sequence[float], lead_s: float) -> str:
    """Whole microseconds between arrivals, whose sum never strays; the first comes after `lead_s`."""
    if not arrivals_s:
        raise LoadError("the window is so short that no request falls into it")
    first_us = round(arrivals_s[0] * 1e6)
    times_us = [round(arrival * 1e6) - first_us for arrival in arrivals_s]
    gaps = [round(lead_s * 1e6), *(after - before for before, after in pairwise(times_us))]
    return "".join(f"{gap}\n" for gap in gaps)


def _left_late(summary: LoadSummary, said: str) -> bool:
    """A request counts as delayed from 1 ms on: that matters where answers come about as fast."""
    typical_s = summary.percentiles_s[50]
    return delayed_share(said) > CLIENT_BOUND_DELAYED and allowed_lag_s([typical_s]) <= LAG_ALLOWED_S


def _how_it_ended(code: int, said: str) -> str:
    causes = [line.strip() for line in said.splitlines() if "error" in line.lower() or "failed" in line.lower()]
    cause = causes[0] if causes else next((line for line in reversed(said.splitlines()) if line.strip()), "")
    how = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"{how}: {cause}" if cause else how


def _tail(said: str) -> str:
    return "\n".join(said.splitlines()[-20:])
