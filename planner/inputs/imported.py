"""What an importer hands on of each load point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.domain.profile import ProfileRow


@dataclass(frozen=True, slots=True)
class ImportedPoint:
    """`statistics`: mean times per request in milliseconds (queue_ms, compute_input_ms, compute_infer_ms,
    compute_output_ms) and what else the file tells, under the names that a measurement has for them."""

    row: ProfileRow
    statistics: Mapping[str, object] = field(default_factory=dict)
