"""Profile rows of one model on one device type -> options: the numbers that planning needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil

from planner.batch_time import batch_time
from planner.call_promises import Curves, promising
from planner.domain.ensemble import Ensemble
from planner.domain.latency import CurvePoint, largest_stretch, tolerance
from planner.domain.problem import ConfigurationKey, DeviceKind, LatencyBasis, Model, Option, Settings
from planner.domain.profile import ProfileRow, Source, by_configuration
from planner.domain.serving import LoadMode
from planner.domain.statistics import samples_needed
from planner.domain.tail import percentile_or_tail_ms
from planner.domain.units import PPM, busy_ppm, capacity_mrps, exact, format_bytes, latency_us
from planner.domain.workload import PERCENTILES

REPLICA_COUNTS_TRIED = 8


@dataclass(frozen=True, slots=True)
class Configuration:
    """All points of one configuration that may be planned with."""

    rows: tuple[ProfileRow, ...]

    @property
    def first(self) -> ProfileRow:
        return self.rows[0]

    @property
    def batches(self) -> bool:
        """Whether the server puts requests together, so that busy time is not proportional to the rate."""
        return self.first.max_batch_size > 1 and self.first.queue_delay_us is not None

    @property
    def memory_bytes(self) -> int | None:
        """The largest hot memory seen; None where no row has one."""
        return max((row.memory_bytes for row in self.rows if row.memory_bytes is not None), default=None)

    def usable(self, mode: LoadMode) -> list[ProfileRow]:
        """Points before the knee, by rate. A closed-loop point at more load but less rate lies past it."""
        rows = [row for row in self.rows if row.load is mode and row.stable and not row.failed and row.rate_rps]
        if mode is LoadMode.CLOSED:
            saturated = max(rows, key=lambda row: row.rate_rps or 0.0, default=None)
            if saturated is not None and saturated.concurrency is not None:
                most = saturated.concurrency
                rows = [row for row in rows if row.concurrency is None or row.concurrency <= most]
        return sorted(rows, key=lambda row: row.rate_rps or 0.0)

    def has_open_percentile(self, percentile: int) -> bool:
        return any(row.percentile_ms(percentile) is not None for row in self.usable(LoadMode.OPEN))

    def saturated_rps(self) -> float:
        return max((row.rate_rps or 0.0 for row in self.rows if not row.failed), default=0.0)


def configurations(rows: Iterable[ProfileRow]) -> list[Configuration]:
    return [Configuration(tuple(group)) for group in by_configuration(rows)]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What else decides which options of a model are worth something.

    A configuration that is `running` now is beaten by none but itself; `ensembles` need promises of its calls, those
    that it is `served_in` by Triton have all members on each server. `most_on_node`: devices, by kind.
    """

    running: frozenset[ConfigurationKey] = frozenset()
    ensembles: tuple[Ensemble, ...] = ()
    served_in: tuple[str, ...] = ()
    most_on_node: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a configuration gave no option. `miss`: by how much, against others with the same cause."""

    cause: str
    miss: float
    text: str


def _nearest(refusals: Iterable[Refusal]) -> list[str]:
    """One sentence per cause, of the configuration that came nearest: a sweep has hundreds of them."""
    nearest: dict[str, Refusal] = {}
    for refusal in refusals:
        if refusal.cause not in nearest or refusal.miss < nearest[refusal.cause].miss:
            nearest[refusal.cause] = refusal
    return [refusal.text for refusal in nearest.values()]


def model_options(
    rows: Iterable[ProfileRow],
    model: Model,
    kind: DeviceKind,
    settings: Settings,
    wishes: Wishes | None = None,
) -> tuple[list[Option], list[str]]:
    """Options that no other one beats in every number, and the reasons why configurations gave none.


    A search puts open traffic on the configurations that are worth it: next to these, a closed loop's latency, which
    always looks better, would speak for the ones that are not.
    """
    wishes = wishes or Wishes()
    found: list[Option] = []
    refusals: list[Refusal] = []
    known = configurations(rows)
    if model.latency_bound_us is not None and any(one.has_open_percentile(model.percentile) for one in known):
        settings = replace(settings, require_open_loop=True)
    for configuration in known:
        options = list(_options_of(configuration, model, kind, settings, wishes, refusals))
        found.extend(options)
    kept = [option for option in found if option.configuration in wishes.running]
    return _undominated(found, kept), _nearest(refusals)


def _options_of(
    configuration: Configuration,
    model: Model,
    kind: DeviceKind,
    settings: Settings,
    wishes: Wishes,
    refusals: list[Refusal],
) -> Iterator[Option]:
    first = configuration.first
    refusal = _refused_gpus(first.gpus, kind, wishes)
    if refusal is not None:
        refusals.append(Refusal("gpus", first.gpus, refusal))
        return
    if first.variant:
        text = f"measured as a whole ({first.variant}); this version plans with models, not with ensembles"
        if "=" in first.variant:
            text = f"measured with {first.variant}: to plan with it, write it into config.pbtxt and measure again"
        refusals.append(Refusal("variant", 0, text))
        return
    memory = _replica_memory(configuration, kind)
    if memory > kind.memory_bytes:
        text = f"needs at least {format_bytes(memory)} of memory, {format_bytes(kind.memory_bytes)} are usable"
        text += f" on each of {first.gpus} GPUs" if first.gpus > 1 else ""
        refusals.append(Refusal("memory", memory, text))
        return
    percentile = None if model.latency_bound_us is None else model.percentile
    points, basis = _measured_points(configuration, percentile, settings, refusals)
    curve = tuple(CurvePoint(capacity_mrps(rate), latency) for rate, latency in points)
    asked = _rates(model, [point.rate_mrps for point in curve])
    rates = _within_margin(configuration, model, kind, asked, refusals)
    options = [_option_at(configuration, model, kind, settings, curve, basis, rate) for rate in rates]
    if wishes.ensembles:
        calls = _call_curves(configuration, settings, wishes, refusals)
        options = [p for o in options if o is not None for p in promising(o, model, wishes.ensembles, calls, settings)]
    yield from (option for option in options if option is not None)
    if rates and not any(options) and model.latency_bound_us is not None:
        best, bound = min(point.latency_us for point in curve) / 1000, (model.latency_bound_us or 0) / 1000
        run = f"{first.instances} x batch {first.max_batch_size}"
        text = f"a p{model.percentile} of {bound:g} ms cannot be met: {best:.4g} ms at best ({run})"
        refusals.append(Refusal("latency", best, text))


def _refused_gpus(gpus: int, kind: DeviceKind, wishes: Wishes) -> str | None:
    """Why no replica can take so many GPUs."""
    if gpus == 1:
        return None
    if kind.mig is not None or kind.cores is not None:
        return f"takes {gpus} whole GPUs, and a {kind.profile} is none"
    if wishes.served_in:
        return f"takes {gpus} GPUs for itself alone, but {wishes.served_in[0]} needs all members on one server"
    most = wishes.most_on_node.get(kind.name, 0)
    return f"takes {gpus} GPUs of one node, and no node has more than {most}" if most < gpus else None


def _call_curves(configuration: Configuration, settings: Settings, wishes: Wishes, refusals: list[Refusal]) -> Curves:
    """By percentile that an ensemble needs of a call, what was measured of it alone."""
    found: dict[float, tuple[Sequence[CurvePoint], LatencyBasis]] = {}
    for ensemble in wishes.ensembles:
        percentile = ensemble.call_percentile
        points, basis = _measured_points(configuration, percentile, settings, refusals)
        found[percentile] = ([CurvePoint(capacity_mrps(rate), latency) for rate, latency in points], basis)
    return found


def _measured_points(
    configuration: Configuration, percentile: float | None, settings: Settings, refusals: list[Refusal]
) -> tuple[list[tuple[float, int]], LatencyBasis]:
    """(rate, latency in us) by rate, and what they rest on; open-loop points where there are any.

    `percentile` None: latency does not matter.
    """
    for mode in (LoadMode.OPEN, LoadMode.CLOSED):
        rows = configuration.usable(mode)
        if percentile is None:
            known = [(row.rate_rps or 0.0, 0) for row in rows]
            basis = LatencyBasis.NONE
        elif mode is LoadMode.CLOSED and settings.require_open_loop:
            refusals.append(Refusal("closed", 0, "measured in closed loop only, where open-loop points are to be had"))
            continue
        else:
            known = [
                (row.rate_rps or 0.0, latency_us(latency))
                for row in rows
                if (latency := percentile_or_tail_ms(row, percentile)) is not None
            ]
            basis = LatencyBasis(mode.value)
        if known:
            return known, basis
        if rows:
            if all(row.is_fitted for row in rows):
                refusals.append(Refusal("fitted", 0, "its rate is fitted, and latency percentiles never are"))
                continue
            count = samples_needed(percentile or 0)
            text = f"its p{percentile} is not known: that takes {count:,} requests in one window"
            if percentile is not None and percentile > PERCENTILES[-1]:
                text += f", or p{PERCENTILES[-1]} and a lower percentile to estimate it from"
            refusals.append(Refusal("percentile", 0, text))
    if not refusals:
        refusals.append(Refusal("unstable", 0, "no stable point was measured"))
    return [], LatencyBasis.NONE


def _rates(model: Model, measured_mrps: Sequence[int]) -> list[int]:
    """Capacities worth planning at: the measured rates, and equal shares of the demand below the last one."""
    if not measured_mrps:
        return []
    top = max(measured_mrps)
    found = {rate for rate in measured_mrps if rate > 0}
    peak = model.peak_mrps
    if peak:
        fewest = max(1, ceil(Fraction(peak, top)))
        found |= {-(-peak // n) for n in range(fewest, fewest + REPLICA_COUNTS_TRIED) if -(-peak // n) <= top}
    return sorted(found)


def _within_margin(
    configuration: Configuration, model: Model, kind: DeviceKind, rates: Sequence[int], refusals: list[Refusal]
) -> Sequence[int]:
    """The rates at which a slice is no busier than its margin allows, and in the place of others as much as it does."""
    if kind.alone_ppm == PPM:
        return rates
    busy = {rate: max(_busy_by_period(configuration, model, rate)) for rate in rates}
    reduced = {rate * kind.alone_ppm // share for rate, share in busy.items() if share > kind.alone_ppm}
    busy |= {rate: max(_busy_by_period(configuration, model, rate)) for rate in reduced if rate}
    kept = sorted(rate for rate, share in busy.items() if share <= kind.alone_ppm)
    if rates and not kept:
        limit = f"{kind.alone_ppm / PPM:.0%}"
        text = f"its busy time on a {kind.profile} is known as 100 % alone, the MIG margin allows {limit}"
        refusals.append(Refusal("mig-margin", 0, f"{text}: give busy, or --mig-margin 0"))
    return kept


def _option_at(
    configuration: Configuration,
    model: Model,
    kind: DeviceKind,
    settings: Settings,
    curve: tuple[CurvePoint, ...],
    basis: LatencyBasis,
    rate_mrps: int,
) -> Option | None:
    row = configuration.first
    tolerance_ppm, max_others = PPM, None
    if model.latency_bound_us is not None:
        phi = largest_stretch(curve, rate_mrps, model.latency_bound_us)
        if phi is None:
            return None
        borne = tolerance(phi, optimistic=settings.optimistic_latency)
        tolerance_ppm, max_others = borne.busy_ppm, borne.max_others
    busy = _busy_by_period(configuration, model, rate_mrps)
    exclusive = configuration.memory_bytes is None
    alone = exclusive or row.gpus > 1
    delay = "-" if row.queue_delay_us is None else str(row.queue_delay_us)
    name = f"{row.model}@{kind.name}:{row.instances}x{row.max_batch_size}:q{delay}:b{row.request_batch_size}"
    return Option(
        id=f"{name}:{row.backend or '-'}:{rate_mrps}{_gpus_mark(row)}{_requests_mark(row)}",
        model=model.name,
        kind=kind.name,
        instances=row.instances,
        max_batch_size=row.max_batch_size,
        queue_delay_us=row.queue_delay_us,
        backend="" if exclusive else row.backend,
        memory_bytes=_replica_memory(configuration, kind),
        capacity_mrps=rate_mrps,
        busy_ppm=busy,
        tolerance_ppm=0 if alone else tolerance_ppm,
        max_others=0 if alone else max_others,
        curve=curve if model.latency_bound_us is not None else (),
        latency_basis=basis,
        request_batch_size=row.request_batch_size,
        exclusive=exclusive,
        gpus=row.gpus,
        swing_ppm=_swing_by_period(configuration, model, rate_mrps, busy),
        source=_source(configuration),
        batch_time=batch_time(configuration.rows, batches=configuration.batches),
    )


def _gpus_mark(row: ProfileRow) -> str:
    return f":g{row.gpus}" if row.gpus > 1 else ""


def _requests_mark(row: ProfileRow) -> str:
    """Tells options apart that differ only in what was sent to measure them."""
    return f":r{hashlib.sha256(row.requests.encode()).hexdigest()[:8]}" if row.requests else ""


def _replica_memory(configuration: Configuration, kind: DeviceKind) -> int:
    """Hot memory on each GPU, of which it takes even parts; where it is not known, all that the server leaves."""
    known = configuration.memory_bytes
    return kind.memory_bytes - kind.server_base_bytes if known is None else -(-known // configuration.first.gpus)


def _source(configuration: Configuration) -> str:
    """The least certain source among the points: an estimate anywhere makes the option an estimate."""
    return Source.weakest(row.source for row in configuration.rows)


def _busy_by_period(configuration: Configuration, model: Model, rate_mrps: int) -> tuple[int, ...]:
    """Busy share at the capacity in the busiest period, and in proportion to the demand in the others."""
    at_capacity = busy_ppm(_busy(configuration, Fraction(rate_mrps, 1000)))
    if not model.demand_mrps or not model.peak_mrps:
        return (at_capacity,) * len(model.demand_mrps or (0,))
    if configuration.batches:
        # A smaller batch costs more time per request, so less load is not proportionally less busy time.
        return tuple(
            busy_ppm(_busy(configuration, Fraction(rate_mrps * demand, 1000 * model.peak_mrps)))
            for demand in model.demand_mrps
        )
    return tuple(-(-at_capacity * demand // model.peak_mrps) for demand in model.demand_mrps)


def _swing_by_period(
    configuration: Configuration, model: Model, rate_mrps: int, busy: Sequence[int]
) -> tuple[int, ...]:
    """What a demand above its mean adds to busy time, no more than that; empty where the rate is certain."""
    if not model.swing_mrps or not model.demand_mrps:
        return ()
    if configuration.batches:
        means = [max(0, demand - model.swing_mrps) for demand in model.demand_mrps]
        at_mean = [busy_ppm(_busy(configuration, Fraction(rate_mrps * m, 1000 * model.peak_mrps))) for m in means]
        return tuple(max(0, most - mean) for most, mean in zip(busy, at_mean, strict=True))
    return tuple(
        most * min(model.swing_mrps, demand) // demand if demand else 0
        for most, demand in zip(busy, model.demand_mrps, strict=True)
    )


def _busy(configuration: Configuration, rate_rps: Fraction) -> Fraction:
    """Share of the device's time at this rate, never below what was measured around it.

    Busy time grows with the rate, and busy time per request falls as batches grow: so the next point above
    and the last point below, scaled up to this rate, both bound it from above.
    """
    if rate_rps == 0:
        return Fraction(0)
    saturated = exact(configuration.saturated_rps())
    rows = configuration.usable(LoadMode.OPEN) or configuration.usable(LoadMode.CLOSED)
    rows = [row for row in rows if row.busy is not None]
    if not rows:
        return Fraction(1) if configuration.batches else min(Fraction(1), rate_rps / saturated)
    points = sorted((exact(row.rate_rps or 0.0), exact(row.busy or 0.0)) for row in rows)
    above = [busy for rate, busy in points if rate >= rate_rps]
    below = [busy * rate_rps / rate for rate, busy in points if rate <= rate_rps]
    bounds = [max(above[:1], default=Fraction(1)), *below[-1:]]
    if not configuration.batches and not below:
        rate, busy = points[0]
        bounds.append(busy * rate_rps / rate)
    return min(Fraction(1), *bounds)


def _undominated(options: Sequence[Option], running: Sequence[Option]) -> list[Option]:
    """Options that no other one beats or equals in every number that a rule or an objective reads.

    Of those with a configuration that is running now, each configuration keeps its own.
    """
    own = [_undominated([o for o in running if o.configuration == c], []) for c in {o.configuration for o in running}]
    if own:
        known = {option.id: option for part in (_undominated(options, []), *own) for option in part}
        return sorted(known.values(), key=lambda o: o.id)
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.memory_bytes, sum(o.busy_ppm), -o.capacity_mrps, o.id)):
        if not any(_beats(other, option) for other in kept):
            kept = [other for other in kept if not _beats(option, other)]
            kept.append(option)
    return sorted(kept, key=lambda o: o.id)


def _beats(one: Option, other: Option) -> bool:
    unlimited = 1 << 62
    return (
        one.gpus == other.gpus
        and one.memory_bytes <= other.memory_bytes
        and one.capacity_mrps >= other.capacity_mrps
        and all(a <= b for a, b in zip(one.busy_ppm, other.busy_ppm, strict=True))
        and all(one.swing(p) <= other.swing(p) for p in range(len(one.busy_ppm)))
        and all(one.busy_ppm[p] - one.swing(p) <= other.busy_ppm[p] - other.swing(p) for p in range(len(one.busy_ppm)))
        and one.tolerance_ppm >= other.tolerance_ppm
        and one.instances <= other.instances
        and (unlimited if one.max_others is None else one.max_others)
        >= (unlimited if other.max_others is None else other.max_others)
        and one.backend == other.backend
        and one.interference_class == other.interference_class
        and all((one.promised_us(p.percentile) or unlimited) <= p.latency_us for p in other.promises)
    )
