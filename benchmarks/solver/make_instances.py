"""Write the instances of this study. The files are kept, so that results stay comparable; run it only to add some.

python benchmarks/solver/make_instances.py
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

from planner.domain.codec import to_json
from planner.domain.problem import SCHEMA_VERSION, Device, DeviceKind, LatencyBasis, Model, Objective, Option, Problem
from planner.domain.units import PPM

FOLDER = Path(__file__).parent / "instances"
SIZES = (4, 8, 12, 20)
SEEDS = (1, 2)
# Enough for GPUs of its own for every model.
GPUS_PER_MODEL = 6
GIB = 2**30
# Name, memory in GiB, how much faster than the first, price in USD per hour.
TYPES = (("L", 24, 1.0, 1.0), ("XL", 80, 3.0, 2.6))


def instance(style: str, size: int, seed: int) -> Problem:
    """`one`: a single GPU type, fewest GPUs. `two`: a small and a large type with prices, lowest cost."""
    rng = random.Random(f"{style}-{size}-{seed}")
    types = TYPES[:1] if style == "one" else TYPES
    models: list[Model] = []
    options: list[Option] = []
    for index in range(size):
        name, rate = f"m{index}", rng.randint(20, 400) * 1000
        models.append(Model(name=name, rate_mrps=(rate,), demand_mrps=(rate,), percentile=99, latency_bound_us=None))
        options += _options(rng, name, [kind for kind, *_ in types], [speed for _, _, speed, _ in types])
    devices = [
        Device(id=f"{kind}/{i}", gpu=f"{kind}/{i}", kind=kind)
        for kind, *_ in types
        for i in range(GPUS_PER_MODEL * size)
    ]
    return Problem(
        schema_version=SCHEMA_VERSION,
        periods=("all",),
        models=tuple(models),
        kinds=tuple(_kind(*row) for row in types),
        devices=tuple(devices),
        options=tuple(options),
        objectives=(Objective.GPUS,) if style == "one" else (Objective.COST,),
    )


def _kind(name: str, memory_gib: int, _speed: float, usd_per_hour: float) -> DeviceKind:
    return DeviceKind(
        name=name,
        type=name,
        profile=name,
        memory_bytes=int(0.95 * memory_gib * GIB),
        server_base_bytes=GIB // 2,
        utilization_ppm=800_000,
        backend_overhead_bytes={"onnxruntime": GIB // 2},
        cost_microusd_per_hour=round(usd_per_hour * 1_000_000),
    )


def _options(rng: random.Random, model: str, kinds: list[str], speeds: list[float]) -> Iterator[Option]:
    """One and two instances: twice the memory, less than twice the rate, and fewer neighbours borne."""
    memory, alone = int(rng.uniform(0.3, 6) * GIB), rng.randint(60, 400) * 1000
    tolerance, others = rng.randint(350_000, PPM), rng.randint(2, 8)
    for kind, speed in zip(kinds, speeds, strict=True):
        for instances, factor, share in ((1, 1.0, 0.3), (1, 1.0, 0.6), (2, 1.5, 0.6)):
            yield Option(
                id=f"{model}@{kind}:{instances}:{share:g}",
                model=model,
                kind=kind,
                instances=instances,
                max_batch_size=8,
                queue_delay_us=None,
                backend="onnxruntime",
                memory_bytes=memory * instances,
                capacity_mrps=int(alone * speed * factor * share),
                busy_ppm=(int(share * PPM * factor / 1.5),),
                tolerance_ppm=tolerance,
                max_others=others,
                curve=(),
                latency_basis=LatencyBasis.NONE,
            )


def _short(value: object) -> object:
    """As JSON, without the fields that have their default: a few kilobytes for a small instance."""
    if isinstance(value, tuple):
        return [_short(item) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return to_json(value)
    given = {field.name: getattr(value, field.name) for field in fields(value)}
    defaults = {field.name: field.default for field in fields(value)}
    return {name: _short(item) for name, item in given.items() if item != defaults[name]}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for style in ("one", "two"):
        for size in SIZES:
            for seed in SEEDS:
                text = json.dumps(_short(instance(style, size, seed)), separators=(",", ":"))
                (FOLDER / f"{style}-{size:02d}-{seed}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
