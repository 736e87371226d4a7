"""The windows of one load point: which of them count, whether they are enough, and what they are together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from planner.domain.serving import LoadMode, LoadResult, LoadSummary
from planner.domain.statistics import samples_needed
from profiler.devices.base import Usage
from profiler.precision import Precision, spread
from profiler.window import Window


@dataclass(frozen=True, slots=True)
class PooledUsage:
    """Implements `profiler.devices.base.Usage` over windows of equal length; remarks are those of the last one."""

    parts: tuple[Usage, ...]

    @property
    def peak_bytes(self) -> int | None:
        return max((part.peak_bytes for part in self.parts if part.peak_bytes is not None), default=None)

    @property
    def busy(self) -> float | None:
        return _mean(part.busy for part in self.parts)

    @property
    def power_watts(self) -> float | None:
        return _mean(part.power_watts for part in self.parts)

    def samples(self) -> dict[str, tuple[float, ...]]:
        """The series one behind the other, as if there were no time between the windows."""
        every = [part.samples() for part in self.parts]
        return {name: _joined([one.get(name, ()) for one in every], name) for name in every[-1]}

    def remarks(self) -> dict[str, object]:
        return self.parts[-1].remarks()

    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for part in self.parts for text in part.warnings()))


@dataclass(frozen=True)
class Repeated:
    """`windows` of the same load, one after another. `percent` is the percentile that must be known closely."""

    windows: tuple[Window, ...]
    percent: float
    precision: Precision

    @cached_property
    def counted(self) -> tuple[Window, ...]:
        """Those since the last one that was not stable: what came before it was no steady state either.

        Where the last one is not stable, it alone.
        """
        first = max((place for place, window in enumerate(self.windows) if not window.stability.stable), default=-1)
        return self.windows[first + 1 :] or self.windows[-1:]

    @cached_property
    def together(self) -> Window:
        counted = self.counted
        if len(counted) == 1:
            return counted[0]
        first, last = counted[0], counted[-1]
        usage = PooledUsage(tuple(window.usage for window in counted))
        result = _pooled([window.result for window in counted])
        members = {name: (first.members[name][0], after) for name, (_, after) in last.members.items()}
        return replace(last, result=result, usage=usage, before=first.before, members=members)

    @property
    def is_enough(self) -> bool:
        """Whether another window would tell nothing more: it is known closely, overloaded, or out of windows."""
        last = self.windows[-1]
        if last.stability.overloaded or len(self.windows) >= self.precision.max_windows:
            return True
        together = self.together
        if not together.stability.stable:
            return False
        return self.imprecise is None

    @property
    def imprecise(self) -> str | None:
        """What stayed less sure than was asked for; None where all is known closely enough."""
        together, asked = self.together, self.precision
        found = []
        # an open loop's rate is what was offered: its spread is that of the arrivals, and says nothing of the server
        if together.point.mode is LoadMode.CLOSED:
            rate = spread(together.rate_interval_rps, together.rate_rps)
            if rate is not None and rate > asked.rate:
                found.append(f"rate ±{rate:.0%} ({asked.rate:.0%} asked)")
        value_ms = together.percentile_ms(self.percent)
        if value_ms is not None:
            latency = spread(together.percentile_interval_ms(self.percent), value_ms)
            # a summary of few windows has no interval at all: more of them would have to say so first
            if latency is not None and latency > asked.latency:
                found.append(f"p{self.percent:g} ±{latency:.0%} ({asked.latency:.0%} asked)")
        elif together.point.mode is LoadMode.OPEN and self._is_within_reach(together):
            found.append(f"p{self.percent:g} unknown")
        return ", ".join(found) or None

    def remarks(self) -> dict[str, object]:
        """What is kept of every window, and what they are together."""
        percent = f"latency_p{self.percent:g}_interval_ms"
        return {
            **self.together.remarks(),
            percent: list(self.together.percentile_interval_ms(self.percent)),
            "imprecise": self.imprecise,
            "windows": [
                {
                    "seconds": window.result.seconds,
                    "rate_rps": window.rate_rps,
                    f"p{self.percent:g}_ms": window.percentile_ms(self.percent),
                    "busy": window.usage.busy,
                    "unstable": window.stability.reason,
                    "counted": window in self.counted,
                }
                for window in self.windows
            ],
        }

    def _is_within_reach(self, together: Window) -> bool:
        """Whether an unknown percentile can become known in as many windows as there may be."""
        if together.result.summary is not None:
            return False
        per_window = together.result.answered / len(self.counted)
        return per_window * self.precision.max_windows >= samples_needed(self.percent)


def _joined(parts: Sequence[tuple[float, ...]], name: str) -> tuple[float, ...]:
    joined: list[float] = []
    for part in parts:
        grows = name.endswith("time_s") or name == "cpu_s"
        start = joined[-1] if grows and joined else 0.0
        joined += [start + value for value in part]
    return tuple(joined)


def _pooled(results: Sequence[LoadResult]) -> LoadResult:
    """As if the windows had followed each other without a gap."""
    first, last = results[0], results[-1]
    starts_s = [sum(result.seconds for result in results[:place]) for place in range(len(results))]
    window = None if first.window is None or last.window is None else (first.window[0], last.window[1])
    return replace(
        last,
        seconds=sum(result.seconds for result in results),
        sent_s=tuple(start + at for start, r in zip(starts_s, results, strict=True) for at in r.sent_s),
        latency_s=tuple(latency for result in results for latency in result.latency_s),
        offered=sum(result.offered for result in results),
        failed=sum(result.failed for result in results),
        first_error=next((result.first_error for result in results if result.first_error), None),
        first_refusal=next((result.first_refusal for result in results if result.first_refusal), None),
        client_busy=round(fmean(result.client_busy for result in results), 4),
        client_bound=any(result.client_bound for result in results),
        summary=_pooled_summary([result.summary for result in results if result.summary is not None]),
        window=window,
    )


def _pooled_summary(summaries: Sequence[LoadSummary]) -> LoadSummary | None:
    if not summaries:
        return None
    answered = sum(summary.answered for summary in summaries)
    return LoadSummary(
        answered=answered,
        mean_s=sum(summary.mean_s * summary.answered for summary in summaries) / max(1, answered),
        percentiles_s={
            percent: fmean(summary.percentiles_s[percent] for summary in summaries)
            for percent in summaries[0].percentiles_s
        },
        part_rates_rps=tuple(rate for summary in summaries for rate in summary.part_rates_rps),
        part_means_s=tuple(mean for summary in summaries for mean in summary.part_means_s),
        by_window=tuple(summary.percentiles_s for summary in summaries),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
