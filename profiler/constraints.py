"""What a configuration must keep to be worth measuring further. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from planner.domain.profile import ProfileRow
from planner.domain.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Of one model: a bound of a latency percentile, the least rate (requests per second) and the most hot memory
    of a replica. None: no such constraint."""

    percentile: int = 99
    latency_ms: float | None = None
    min_rate_rps: float | None = None
    max_memory_bytes: int | None = None

    def on_latency(self, row: ProfileRow) -> str | None:
        """Why a point does not keep the latency bound; None where it does, or where nobody knows."""
        latency_ms = row.percentile_ms(self.percentile)
        if self.latency_ms is None or latency_ms is None or latency_ms <= self.latency_ms:
            return None
        return f"p{self.percentile} {latency_ms:.3g} ms, at most {self.latency_ms:g} ms are allowed"

    def on_lone_request(self, latency_mean_ms: float | None) -> str | None:
        """Why no load at all can keep the bound: even the mean of requests that never wait is above it."""
        if self.latency_ms is None or latency_mean_ms is None or latency_mean_ms <= self.latency_ms:
            return None
        return f"one request alone takes {latency_mean_ms:.3g} ms, at most {self.latency_ms:g} ms are allowed"

    def on_rate(self, rate_rps: float) -> str | None:
        if self.min_rate_rps is None or rate_rps >= self.min_rate_rps:
            return None
        return f"serves {rate_rps:.4g} req/s, at least {self.min_rate_rps:g} are asked for"

    def on_memory(self, memory_bytes: float | None) -> str | None:
        if self.max_memory_bytes is None or memory_bytes is None or memory_bytes <= self.max_memory_bytes:
            return None
        return f"takes {format_bytes(int(memory_bytes))}, at most {format_bytes(self.max_memory_bytes)} are allowed"
