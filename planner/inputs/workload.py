"""workload.yaml: what must be served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from planner.domain.ensemble import Serve
from planner.domain.observed import ObservedRates
from planner.domain.topology import Domain, Pin, Spread
from planner.domain.workload import ALL_DAY, PERCENTILES, EnsembleDemand, ModelDemand, SurvivalDemand, Workload
from planner.inputs.catalogue import canonical_name
from planner.inputs.ensembles import EnsembleShape, ensemble
from planner.inputs.observed_rates import read_observed_rates
from planner.inputs.record import Bytes, Count, NotNegative, Positive, Record, Steps, Text
from planner.inputs.yaml_file import YamlFile, nearest, read_record

_LATENCY_KEYS = {f"latency_p{p}_ms": p for p in PERCENTILES}


class LatencyEntry(Record):
    percentile: Literal[50, 90, 95, 99] = 99
    bound_ms: Positive


class ReplicasEntry(Record):
    min: Annotated[int, Field(ge=0)] = 1
    max: Count | None = None


class RateEntry(Record):
    """An uncertain rate: its mean and its standard deviation."""

    mean_rps: NotNegative
    spread_rps: NotNegative


class SpreadEntry(Record):
    over: Literal["node", "rack", "zone"]
    at_least: Count = 1
    at_most_each: Count | None = None


def _listed(value: object) -> object:
    return [value] if isinstance(value, dict) else value


def _or_one(schema: dict[str, Any]) -> None:
    listed = {key: schema.pop(key) for key in ("type", "items", "minItems")}
    schema["anyOf"] = [listed["items"], listed]


class HostEntry(Record):
    memory: Bytes = 0
    cpu: NotNegative = 0.0


class ServedEntry(Record):
    """What models and ensembles are both asked for."""

    name: Text
    rate_rps: NotNegative | None = None
    rates_rps: Annotated[dict[str, NotNegative], Field(min_length=1)] | None = None
    latency_p99_ms: Positive | None = None
    latency_p95_ms: Positive | None = None
    latency_p90_ms: Positive | None = None
    latency_p50_ms: Positive | None = None
    latency: LatencyEntry | None = None


class EnsembleEntry(ServedEntry, EnsembleShape):
    pass


class ModelEntry(ServedEntry):
    uncertain_rate: RateEntry | None = None
    replicas: ReplicasEntry = ReplicasEntry()
    allowed_gpu: Annotated[list[Text], Field(min_length=1)] | None = None
    priority: Count = 1
    headroom: NotNegative | None = None
    spread: (
        Annotated[list[SpreadEntry], BeforeValidator(_listed), Field(min_length=1, json_schema_extra=_or_one)] | None
    ) = None
    host: HostEntry = HostEntry()


class DefaultsEntry(Record):
    headroom: NotNegative = 0.0


_RULES = ("conflict", "together", "pinned")
Names = Annotated[list[Text], Field(min_length=2)]


class PinEntry(Record):
    model: Text
    gpu: Text


class RuleEntry(Record):
    conflict: Names | None = None
    together: Names | None = None
    pinned: PinEntry | None = None


class SurvivesEntry(Record):
    domain: Literal["gpu", "node", "rack", "zone"]
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    models: Literal["all"] | Annotated[list[Text], Field(min_length=1)] = "all"


class WorkloadFile(Record):
    schema_version: Literal[1]
    defaults: DefaultsEntry = DefaultsEntry()
    models: Annotated[list[ModelEntry], Field(min_length=1)]
    ensembles: list[EnsembleEntry] = Field(default_factory=list)
    observed_rates: Text | None = None
    rules: Annotated[list[RuleEntry], Field(default_factory=list)]
    survives: Annotated[list[SurvivesEntry], Field(default_factory=list)]


def read_workload(path: Path) -> Workload:
    record, file = read_record(WorkloadFile, path)
    models: dict[str, ModelDemand] = {}
    for i, entry in enumerate(record.models):
        if entry.name in models:
            raise file.error(("models", i, "name"), f"model {entry.name!r} is given twice")
        with file.at("models", i):
            models[entry.name] = _demand(entry, record.defaults, file, i)
    observed = _observed(record, file, path)
    columns = () if observed is None else observed.names
    ensembles = tuple(_ensemble(entry, models, columns, file, i) for i, entry in enumerate(record.ensembles))
    rules = _Rules(record, models, file)
    workload = Workload(
        models=tuple(models.values()),
        ensembles=ensembles,
        observed=observed,
        conflict=rules.pairs("conflict"),
        together=rules.pairs("together"),
        pinned=rules.pins(),
        survives=rules.survives(),
    )
    _require_every_period(workload, file)
    return workload


def _demand(entry: ModelEntry, defaults: DefaultsEntry, file: YamlFile, i: int) -> ModelDemand:
    if entry.uncertain_rate is not None and (entry.rate_rps is not None or entry.rates_rps is not None):
        raise file.error(("models", i, "uncertain_rate"), "give one of rate_rps, rates_rps and uncertain_rate")
    percentile, bound_ms = _latency(entry, file, ("models", i))
    return ModelDemand(
        name=entry.name,
        rates_rps=_rates(entry, file, ("models", i))
        if entry.uncertain_rate is None
        else {ALL_DAY: entry.uncertain_rate.mean_rps},
        spread_rps=0.0 if entry.uncertain_rate is None else entry.uncertain_rate.spread_rps,
        headroom=defaults.headroom if entry.headroom is None else entry.headroom,
        percentile=percentile,
        latency_bound_ms=bound_ms,
        replicas_min=entry.replicas.min,
        replicas_max=entry.replicas.max,
        allowed_gpu=tuple(canonical_name(name) for name in entry.allowed_gpu or ()),
        priority=entry.priority,
        spread=tuple(
            Spread(over=Domain(s.over), at_least=s.at_least, at_most_each=s.at_most_each) for s in entry.spread or ()
        ),
        host_memory_bytes=entry.host.memory,
        host_cpu=entry.host.cpu,
    )


def _observed(record: WorkloadFile, file: YamlFile, path: Path) -> ObservedRates | None:
    """The observed rates, beside the workload's file; what has a column there has no rate here."""
    if record.observed_rates is None:
        return None
    entries = [*record.models, *record.ensembles]
    with file.at("observed_rates"):
        observed = read_observed_rates(path.parent / record.observed_rates, [entry.name for entry in entries])
    for kind, row in (("models", record.models), ("ensembles", record.ensembles)):
        for i, entry in enumerate(row):
            given = [
                key for key in ("rate_rps", "rates_rps", "uncertain_rate") if getattr(entry, key, None) is not None
            ]
            if given and entry.name in observed.names:
                raise file.error((kind, i, given[0]), f"{entry.name!r} has a column in {record.observed_rates} too")
    return observed


def _ensemble(
    entry: EnsembleEntry, models: dict[str, ModelDemand], columns: Sequence[str], file: YamlFile, i: int
) -> EnsembleDemand:
    at: Steps = ("ensembles", i)
    rates = {ALL_DAY: 0.0} if entry.name in columns else _rates(entry, file, at)
    if rates is None:
        raise file.error((*at, "rate_rps"), "is missing")
    if entry.name in models:
        raise file.error((*at, "name"), f"{entry.name!r} is the name of a model")
    for j, other in enumerate(file.value["ensembles"][:i]):
        if other["name"] == entry.name:
            raise file.error((*at, "name"), f"ensemble {entry.name!r} is given twice, also as ensembles[{j}]")
        if entry.serve == other.get("serve") == Serve.TRITON:
            for place, member in enumerate(entry.members):
                if member.name in [known["name"] for known in other["members"]]:
                    text = f"{member.name!r} is a member of {other['name']!r} too"
                    hint = "a model may be a member of one ensemble with serve: triton"
                    raise file.error((*at, "members", place, "name"), text, hint=hint)
    percentile, bound_ms = _latency(entry, file, at)
    return ensemble(entry.name, entry, rates, percentile, bound_ms, models, file, i)


class _Rules:
    """The lists `rules` and `survives`, whose names must be models of the file."""

    def __init__(self, record: WorkloadFile, models: Iterable[str], file: YamlFile) -> None:
        self._record, self._models, self._file = record, list(models), file
        for i, entry in enumerate(record.rules):
            given = [key for key in _RULES if getattr(entry, key) is not None]
            if len(given) != 1:
                found = " and ".join(given) or "nothing"
                allowed = ", ".join(_RULES)
                raise file.error(("rules", i), f"each entry is one of {allowed}; this one has {found}")

    def pairs(self, rule: str) -> tuple[tuple[str, str], ...]:
        """Every two of the models that are listed together."""
        found: dict[tuple[str, str], None] = {}
        for i, entry in enumerate(self._record.rules):
            names: list[str] = getattr(entry, rule) or []
            for k, name in enumerate(names):
                self._require(name, ("rules", i, rule, k))
                if name in names[:k]:
                    raise self._file.error(("rules", i, rule, k), f"model {name!r} stands twice in one rule")
            found.update(dict.fromkeys(combinations(names, 2)))
        return tuple(found)

    def pins(self) -> tuple[Pin, ...]:
        found: dict[Pin, None] = {}
        for i, entry in enumerate(self._record.rules):
            if entry.pinned is not None:
                self._require(entry.pinned.model, ("rules", i, "pinned", "model"))
                found[Pin(model=entry.pinned.model, gpu=entry.pinned.gpu)] = None
        return tuple(found)

    def survives(self) -> tuple[SurvivalDemand, ...]:
        found = []
        for i, entry in enumerate(self._record.survives):
            names = self._models if entry.models == "all" else entry.models
            for k, name in enumerate(names):
                self._require(name, ("survives", i, "models", k))
            found.append(SurvivalDemand(domain=Domain(entry.domain), models=tuple(names), share=entry.share))
        return tuple(found)

    def _require(self, name: str, steps: Steps) -> None:
        if name not in self._models:
            near = nearest(name, self._models)
            hint = f"did you mean {near[0]}?" if near else f"models are {', '.join(self._models[:8])}"
            raise self._file.error(steps, f"there is no model {name!r} in this file", hint=hint)


def _rates(entry: ServedEntry, file: YamlFile, at: Steps) -> dict[str, float] | None:
    if entry.rates_rps is None:
        return None if entry.rate_rps is None else {ALL_DAY: entry.rate_rps}
    if entry.rate_rps is not None:
        raise file.error((*at, "rates_rps"), "give rate_rps or rates_rps, not both")
    if ALL_DAY in entry.rates_rps and len(entry.rates_rps) > 1:
        raise file.error((*at, "rates_rps", ALL_DAY), f"{ALL_DAY!r} means every period; name each period instead")
    return dict(entry.rates_rps)


def _latency(entry: ServedEntry, file: YamlFile, at: Steps) -> tuple[int, float | None]:
    given = [key for key in (*_LATENCY_KEYS, "latency") if getattr(entry, key) is not None]
    if len(given) > 1:
        raise file.error((*at, given[1]), f"give one latency objective, not both {given[0]} and {given[1]}")
    if entry.latency is not None:
        return entry.latency.percentile, entry.latency.bound_ms
    if given:
        bound_ms: float = getattr(entry, given[0])
        return _LATENCY_KEYS[given[0]], bound_ms
    return 99, None


def _require_every_period(workload: Workload, file: YamlFile) -> None:
    """What has rates by period has one for each: a forgotten period would be planned as no traffic."""
    asked = [(("models", i), model.rates_rps) for i, model in enumerate(workload.models)]
    asked += [(("ensembles", i), ensemble.rates_rps) for i, ensemble in enumerate(workload.ensembles)]
    for at, rates in asked:
        if rates is None or ALL_DAY in rates:
            continue
        missing = [period for period in workload.periods if period not in rates]
        if missing:
            raise file.error(
                (*at, "rates_rps"),
                f"has no rate for {', '.join(missing)}, which other models name; write 0 for no traffic",
            )
