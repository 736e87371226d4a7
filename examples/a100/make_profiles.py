"""Derives profiles.csv from ParvaGPU's published measurements of a whole A100-80.

    python make_profiles.py FOLDER      FOLDER holds resnet50.csv and vgg19.csv of MunQ-Lee/ParvaGPU_SC24

README.md beside this file says what every column rests on.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from planner.domain.profile import BACKEND_ROW_PREFIX, SERVER_ROW, ProfileRow
from planner.inputs.profiles_csv import write_profiles

DEVICE = "A100-80"
BACKEND = "pytorch"
MB = 1_000_000

WHOLE_GPU = "7"  # MIG size: all seven slices
BATCHES = (1, 2, 4, 8, 16, 32)
MOST_PROCESSES = 3

# Hot memory as fitted on Triton Model Analyzer's checkpoint of a TITAN RTX (planner/inputs/memory_law.py).
SERVER_MB = 509
BACKEND_MB = 900
INSTANCE_MB = {"resnet50": 162, "vgg19": 656}

# The paper's planner lets a configuration serve an objective if its latency is below 0.9 x objective / 2.
P99_OVER_MEAN = 2 / 0.9

SOURCE = (
    "estimated: rate and mean latency published by ParvaGPU (SC24, github.com/MunQ-Lee/ParvaGPU_SC24, MIT); "
    "p99 and memory estimated, see README.md"
)
MEMORY_SOURCE = "estimated: Triton Model Analyzer checkpoint of a TITAN RTX (Apache-2.0)"


def main(folder: Path) -> None:
    rows = [
        ProfileRow(model=SERVER_ROW, device=DEVICE, memory_bytes=SERVER_MB * MB, source=MEMORY_SOURCE),
        ProfileRow(
            model=f"{BACKEND_ROW_PREFIX}{BACKEND}", device=DEVICE, memory_bytes=BACKEND_MB * MB, source=MEMORY_SOURCE
        ),
    ]
    for model in INSTANCE_MB:
        rows.extend(model_rows(model, folder / f"{model}.csv"))
    out = Path(__file__).with_name("profiles.csv")
    write_profiles(rows, out)
    print(f"written: {out.name}, {len(rows)} rows")


def model_rows(model: str, path: Path) -> Iterator[ProfileRow]:
    """Batch 1 gives a configuration without batching; all batches together one with dynamic batching up to 32."""
    with path.open(encoding="utf-8", newline="") as file:
        for published in csv.DictReader(file):
            batch, processes = int(published["Batch size"]), int(published["Workload Number"])
            measured = float(published["Throughput"]) > 0
            if published["Mig instance"] != WHOLE_GPU or batch not in BATCHES or processes > MOST_PROCESSES:
                continue
            if measured:
                dynamic = point(model, batch, processes, published)
                if batch == 1:
                    yield replace(dynamic, max_batch_size=1, queue_delay_us=None, executed_batch_mean=None)
                yield dynamic


def point(model: str, batch: int, processes: int, published: dict[str, str]) -> ProfileRow:
    """One published row: `processes` loops, each always running one batch of `batch` images."""
    mean_ms = float(published["Latency"]) * 1000
    return ProfileRow(
        model=model,
        device=DEVICE,
        backend=BACKEND,
        instances=processes,
        max_batch_size=max(BATCHES),
        queue_delay_us=0,
        concurrency=batch * processes,
        rate_rps=round(float(published["Throughput"]) * processes, 3),
        latency_mean_ms=round(mean_ms, 3),
        latency_p99_ms=round(mean_ms * P99_OVER_MEAN, 3),
        memory_bytes=INSTANCE_MB[model] * MB * processes,
        executed_batch_mean=float(batch),
        source=SOURCE,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
