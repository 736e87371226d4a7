"""Which instances there are: the stored ones, and those of the Vectorpack paper where they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import vectorpack
from instances import FOLDER, SUFFIX

LABELS = (
    *(f"{style}-{dimensions}" for style in ("small", "mixed", "hard") for dimensions in (2, 3)),
    "different",
    "fragile",
    *(f"types-{options}" for options in (1, 3, 8)),
    *(f"sited-{options}" for options in (1, 3)),
)


@dataclass(frozen=True)
class Case:
    """`family` is the label, or the folder of the Vectorpack paper; `size` the number of replicas by name."""

    family: str
    label: str
    size: int
    seed: int
    path: Path

    @property
    def one_gpu_type(self) -> bool:
        return not self.label.startswith(("types", "sited"))

    def bears(self, name: str) -> bool:
        """`small` names small-2 and small-3, `panigrahy` all of its classes."""
        return name in (self.family, self.label) or self.label.startswith(f"{name}-")


def cases(only: Sequence[str], sizes: Sequence[int], seeds: int | None) -> list[Case]:
    """By class, size and seed; nothing named means all, and `seeds` the first so many of each."""
    found = [*_stored(), *_of_vectorpack()]
    return [
        case
        for case in found
        if (not only or any(case.bears(name) for name in only))
        and (not sizes or case.size in sizes)
        and (seeds is None or case.seed < seeds)
    ]


def _stored() -> Iterator[Case]:
    files = [_case(path.name.removesuffix(SUFFIX), path) for path in FOLDER.glob(f"*{SUFFIX}")]
    yield from sorted(files, key=lambda case: (LABELS.index(case.label), case.size, case.seed))


def _case(name: str, path: Path) -> Case:
    label, size, seed = name.rsplit("-", 2)
    return Case(label, label, int(size), int(seed), path)


def _of_vectorpack() -> Iterator[Case]:
    """File names are class, replicas, dimensions and seed: class1_120_10_0.vbp."""
    folder = vectorpack.folder()
    for family in vectorpack.FAMILIES if folder else ():
        found = []
        for path in (folder / family).glob("*.vbp"):
            name, size, dimensions, seed = path.stem.split("_")
            found.append(Case(family, f"{name}-{dimensions}", int(size), int(seed), path))
        yield from sorted(found, key=lambda c: (*map(int, re.findall(r"\d+$", c.label)), c.label, c.size, c.seed))
