"""A simulated device beside a real one: a light model beside heavy ones, and the heavy ones beside it.

    python benchmarks/simulator/run.py [--keep FOLDER] [--rates 1 1.6 2.2] [--json results.json]

Measures each model alone on a real Triton, drives pairs of them together through `planner verify`, and the same plans
through `planner verify --simulate`. Needs what `planner doctor --install-triton` sets up; takes about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from planner.batch_time import batch_time
from planner.domain.profile import by_configuration
from planner.domain.serving import LoadMode
from planner.domain.verification import DeviceVerification, ModelVerification, verification_from_json
from planner.errors import CheckFailed
from planner.simulator.device import Stream, besides_s, poisson, simulate
from planner.store.database import open_store
from profiler.cache import cache_directory

HERE = Path(__file__).parent
BUILD_MODELS = HERE.parents[1] / "examples" / "cpu" / "build_models.py"
STORE = "profiles.db"
COLUMNS = (
    "model", "beside", "load", "req/s", "p", "measured", "interval", "simulated", "error", "promised", "fast limit",
    "busy measured", "simulated",
)  # fmt: skip
PAIRS = ("detection.yaml", "recognition.yaml")
REQUESTS = "1000000"
ALONE_REQUESTS = 200_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="measure and verify here, and go on where it stopped")
    parser.add_argument("--rates", nargs="+", default=["1", "1.6", "2.2"], help="factors of the planned rates")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="planner-simulator-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        models = cache_directory() / "example-models"
        subprocess.run([sys.executable, str(BUILD_MODELS), "-o", str(models)], check=True, stdout=sys.stderr)
        _measure(folder, models)
        alone = list(_alone(folder))
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        found = [one for pair in PAIRS for one in _pair(folder, models, pair, options.rates)]
    _say("alone, at the loads of the profile", alone)
    _say("together", [one["simulated_ms"] / one["measured_ms"] for one in found if one["measured_ms"]])
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _say(where: str, ratios: Sequence[float]) -> None:
    errors = [abs(ratio - 1) for ratio in ratios]
    print(
        f"\n{where}: {len(errors)} percentiles, simulated over measured {min(ratios):.2f} to {max(ratios):.2f}", end=""
    )
    print(f", median error {median(errors):.0%}")


def _alone(folder: Path) -> Iterator[float]:
    """Simulated over measured percentiles of every stable open-loop point."""
    store = open_store(f"sqlite:///{folder / STORE}", must_exist=True)
    for rows in by_configuration(row for row in store.rows() if not row.is_overhead):
        batches = rows[0].queue_delay_us is not None and rows[0].max_batch_size > 1
        time = batch_time(rows, batches=batches)
        if time is None:
            raise SystemExit(f"{rows[0].model}: its profile does not tell how long a batch takes")
        for row in rows:
            percentile = 95 if row.model == "file_type" else 90
            measured_ms = row.percentile_ms(percentile)
            if row.load is LoadMode.OPEN and row.is_planned and row.rate_rps and measured_ms:
                rng, seconds = np.random.default_rng(0), ALONE_REQUESTS / row.rate_rps
                only = Stream(
                    arrivals_s=poisson(row.rate_rps, seconds, rng), instances=1,
                    most_requests=row.max_batch_size if batches else 1, delay_s=0.0,
                    fixed_s=time.fixed_ns / 1e9, each_s=time.each_ns / 1e9,
                )  # fmt: skip
                [served], _ = simulate([only], [[1.0]], 0.1 * seconds, seconds)
                more = besides_s([(p, ns / 1e9) for p, ns in time.besides_ns], len(served.latency_s), rng)
                yield float(np.percentile(served.latency_s + more, percentile)) * 1e3 / measured_ms
    store.close()


def _measure(folder: Path, models: Path) -> None:
    arguments = ["measure", "file_type", "text_detection", "text_recognition", "--search", "grid"]
    arguments += ["--load-generator", "builtin", "--model-repository", str(models)]
    files = ["--config", str(HERE / "measure.yaml"), "--workload", str(HERE / "measured.yaml")]
    _planner(folder, *arguments, *files)


def _pair(folder: Path, models: Path, workload: str, rates: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One plan for both on one core, and what became of it at every load."""
    plan = folder / Path(workload).stem
    _planner(folder, "solve", "--gpus", "1xcpu-1", "--workload", str(HERE / workload), "--utilization", "1",
             "--minimize", "gpus", "-o", str(plan))  # fmt: skip
    for factor in rates:
        kept = plan / f"measured-{factor}.json"
        if not kept.exists():
            _planner(folder, "verify", str(plan), "--rates", factor, "--model-repository", str(models))
            (plan / "verification.json").replace(kept)
        _planner(folder, "verify", str(plan), "--simulate", "--rates", factor, "--requests", REQUESTS)
        measured, simulated = _device(kept), _device(plan / "verification.json")
        for real, played in zip(measured.models, simulated.models, strict=True):
            beside = ", ".join(other.model for other in measured.models if other is not real)
            print(_row(real, played, beside, factor, measured, simulated), flush=True)
            yield {
                "model": real.model, "beside": beside, "rate_rps": real.rate_rps, "percentile": real.percentile,
                "measured_ms": real.measured_ms, "measured_low_ms": real.measured_low_ms,
                "measured_high_ms": real.measured_high_ms, "simulated_ms": played.measured_ms,
                "safe_ms": played.predicted_ms, "fast_ms": played.expected_ms,
                "busy_measured": measured.busy_measured, "busy_simulated": simulated.busy_measured,
            }  # fmt: skip


def _planner(folder: Path, *arguments: str) -> None:
    """The command in a process of its own, its text on standard error; 4 is a model that missed its bound."""
    done = subprocess.run([sys.executable, "-m", "planner.cli", *arguments], cwd=folder, stdout=sys.stderr, check=False)
    if done.returncode not in (0, CheckFailed.exit_code):
        raise SystemExit(f"planner {' '.join(arguments)} ended with {done.returncode}")


def _device(path: Path) -> DeviceVerification:
    [device] = verification_from_json(json.loads(path.read_text()), str(path)).devices
    return device


def _row(
    real: ModelVerification,
    played: ModelVerification,
    beside: str,
    factor: str,
    measured: DeviceVerification,
    simulated: DeviceVerification,
) -> str:
    known = real.measured_ms is not None and played.measured_ms is not None
    cells = (
        real.model, beside, f"{factor} x", f"{real.rate_rps:.4g}", f"p{real.percentile}",
        _ms(real.measured_ms), f"{_ms(real.measured_low_ms)}..{_ms(real.measured_high_ms)}", _ms(played.measured_ms),
        f"{(played.measured_ms or 0) / (real.measured_ms or 1) - 1:+.0%}" if known else "-",
        _ms(played.predicted_ms), _ms(played.expected_ms),
        f"{measured.busy_measured or 0:.0%}", f"{simulated.busy_measured or 0:.0%}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    raise SystemExit(main())
