"""Write the stored instances of this study. They are kept, so that results stay comparable; run it only to add some.

python benchmarks/scale/make_instances.py

The same seeds give the same bytes. No logarithm, power or exponential is drawn from, because their last digit
depends on the machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from instances import FOLDER, SUFFIX, Instance, Kind, Models, Options, packed
from make_types import OPTIONS_PER_MODEL, sited, types

from planner.domain.units import PPM

MEMORY_MIB = 81_920
BUSY_STEP_PPM = 10_000
SEEDS = 10
FEW_SEEDS = 3
# Replicas and kinds of replicas.
SIZES = ((50, 20), (200, 40), (1_000, 60), (5_000, 150), (10_000, 200), (100_000, 1_000))
LARGEST_SHARE = {"small": 0.12, "mixed": 0.5}
SMALLEST_SHARE = 0.01
# A third of a GPU, more or less: three of them fill it.
THIRD = (25, 42)
PERIODS = {2: ("all",), 3: ("day", "night")}

Vector = tuple[int, ...]
"""Memory in MiB, then busy time in ppm per period."""


@dataclass(frozen=True)
class Recipe:
    """How to make one instance, and how many seeds of it there are."""

    label: str
    replicas: int
    seeds: int
    make: Callable[[random.Random, str], Instance]

    def name(self, seed: int) -> str:
        return f"{self.label}-{self.replicas:06d}-{seed}"

    def instance(self, seed: int) -> Instance:
        name = self.name(seed)
        return self.make(random.Random(name), name)


def recipes() -> Iterator[Recipe]:
    for style in ("small", "mixed", "hard"):
        make = _hard if style == "hard" else _uniform
        for dimensions in PERIODS:
            for replicas, kinds in SIZES:
                seeds = SEEDS if replicas <= 10_000 else FEW_SEEDS
                label = f"{style}-{dimensions}"
                yield Recipe(label, replicas, seeds, _bound(make, style, dimensions, replicas, kinds))
    for replicas, seeds in ((1_000, SEEDS), (10_000, FEW_SEEDS)):
        yield Recipe("different", replicas, seeds, _bound(_different, replicas))
    yield Recipe("fragile", 1_000, SEEDS, _bound(_fragile, 1_000, 60))
    for options in OPTIONS_PER_MODEL:
        for replicas, models, seeds in ((200, 40, 5), (1_000, 100, 5), (10_000, 300, 3), (100_000, 1_000, 1)):
            yield Recipe(f"types-{options}", replicas, seeds, _bound(types, options, replicas, models))
    for options in (1, 3):
        for replicas, models in ((1_000, 100), (10_000, 300)):
            yield Recipe(f"sited-{options}", replicas, FEW_SEEDS, _bound(sited, options, replicas, models))


def _bound(make: Callable[..., Instance], *given: object) -> Callable[[random.Random, str], Instance]:
    return lambda rng, name: make(rng, name, *given)


def _uniform(rng: random.Random, name: str, style: str, dimensions: int, replicas: int, kinds: int) -> Instance:
    """Shares of a GPU between 1 % and the style's largest, each resource on its own."""
    top = LARGEST_SHARE[style]
    vectors = [
        (
            round(rng.uniform(SMALLEST_SHARE, top) * MEMORY_MIB),
            *(round(rng.uniform(SMALLEST_SHARE, top) * 100) * BUSY_STEP_PPM for _ in range(dimensions - 1)),
        )
        for _ in range(kinds)
    ]
    return _one_gpu_type(name, vectors, _even(replicas, kinds))


def _hard(rng: random.Random, name: str, style: str, dimensions: int, replicas: int, kinds: int) -> Instance:
    """Triples of kinds that fill a GPU to the last MiB and percent; whole triples, so the optimum is known."""
    vectors: list[Vector] = []
    counts: list[int] = []
    gpus = replicas // 3
    for count in _even(gpus, kinds // 3):
        memory = _triple(rng, MEMORY_MIB, 1)
        busy = [_triple(rng, 100, BUSY_STEP_PPM) for _ in range(dimensions - 1)]
        vectors += zip(memory, *busy, strict=True)
        counts += [count] * 3
    return _one_gpu_type(name, vectors, counts, optimum=gpus)


def _triple(rng: random.Random, whole: int, step: int) -> Vector:
    low, high = (share * whole // 100 for share in THIRD)
    first, second = rng.randint(low, high), rng.randint(low, high)
    return first * step, second * step, (whole - first - second) * step


def _different(rng: random.Random, name: str, replicas: int) -> Instance:
    """Every replica a model of its own: nothing can be counted together."""
    low, top = SMALLEST_SHARE, LARGEST_SHARE["mixed"]
    vectors = [(round(rng.uniform(low, top) * MEMORY_MIB), round(rng.uniform(low, top) * PPM)) for _ in range(replicas)]
    return _one_gpu_type(name, vectors, [1] * replicas)


def _fragile(rng: random.Random, name: str, replicas: int, kinds: int) -> Instance:
    """Fragile objects: all busy time on a GPU stays within own + tolerance of whatever stands there."""
    vectors = [
        (
            round(rng.uniform(SMALLEST_SHARE, 0.25) * MEMORY_MIB),
            round(rng.uniform(SMALLEST_SHARE, 0.25) * 100) * BUSY_STEP_PPM,
        )
        for _ in range(kinds)
    ]
    tolerance = [rng.randint(20, 90) * BUSY_STEP_PPM for _ in range(kinds)]
    return _one_gpu_type(name, vectors, _even(replicas, kinds), tolerance_ppm=tolerance, gpus=replicas)


def _even(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def _one_gpu_type(
    name: str,
    vectors: list[Vector],
    counts: list[int],
    *,
    optimum: int | None = None,
    tolerance_ppm: list[int] | int = PPM,
    gpus: int | None = None,
) -> Instance:
    """Fewest GPUs for so many replicas of each kind, any number of a kind on one GPU."""
    memory, *busy = (list(column) for column in zip(*vectors, strict=True))
    return Instance(
        name=name,
        optimum=optimum,
        periods=PERIODS[len(vectors[0])],
        kinds=[Kind(name="gpu", count=gpus or _enough(vectors, counts), memory=MEMORY_MIB)],
        models=Models(
            count=len(counts),
            demand_mrps=[count * 1000 for count in counts],
            replicas_min=counts,
            replicas_max=counts,
        ),
        options=Options(
            model=list(range(len(counts))), kind=0, memory=memory, busy_ppm=busy, tolerance_ppm=tolerance_ppm
        ),
    )


def _enough(vectors: list[Vector], counts: list[int]) -> int:
    """Twice the area bound and some: so many GPUs never bind, and the fleet does not outweigh the problem."""
    areas = [
        sum(amount * count for amount, count in zip(column, counts, strict=True)) / whole
        for column, whole in zip(zip(*vectors, strict=True), (MEMORY_MIB, *[PPM] * (len(vectors[0]) - 1)), strict=True)
    ]
    return min(sum(counts), int(2 * max(areas)) + 8)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for recipe in recipes():
        for seed in range(recipe.seeds):
            (FOLDER / f"{recipe.name(seed)}{SUFFIX}").write_bytes(packed(recipe.instance(seed)))


if __name__ == "__main__":
    main()
