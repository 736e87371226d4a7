"""A column: what stands on one GPU."""

from __future__ import annotations

from dataclasses import dataclass

Content = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """`contents[d]`: the items on device d of a GPU of this group, sorted; empty where it stays empty."""

    group: int
    contents: tuple[Content, ...]
