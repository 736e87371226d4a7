"""The search with few measurements. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, hypot, log2
from statistics import median

from profiler import laws
from profiler.constraints import Constraints
from profiler.laws import Law, Place
from profiler.points import Configuration
from profiler.search import Fitted, Pruned, Seen, broken

PAYS = 1.05
NEARLY_BEST = 0.95
LIKELY_BETTER = 1.03
WITHIN = 0.05
NOISE_MAX = 0.15
FEW = 8
FEW_OF_MANY = 0.4


class Thrifty:
    """The corners first, then more instances while they pay, then batch sizes where the laws are least sure.

    `configurations` as `points.configurations` gives them; `batch_per_request` is how many inferences one request
    carries, which is what runs at once where the server does not batch.
    """

    is_thrifty = True

    def __init__(
        self, configurations: Sequence[Configuration], constraints: Constraints, batch_per_request: int
    ) -> None:
        self._all = list(configurations)
        self._constraints = constraints
        self._batch_per_request = batch_per_request
        self._seen: dict[Configuration, Seen] = {}
        self._counts = sorted({c.instances for c in configurations})
        delays = [c.queue_delay_us for c in configurations if c.queue_delay_us is not None]
        self._main_delay = min(delays, default=None)
        main = [c for c in configurations if self._is_main(c)]
        self._main = main
        self._batches = sorted({c.max_batch_size for c in main})
        self._laws = _laws((), batch_per_request)
        self._few = max(FEW, ceil(FEW_OF_MANY * len(self._all)))

    def next(self) -> Configuration | None:
        if self._hopeless() is not None:
            return None
        rules = (self._corners, self._more_instances, self._other_delays, self._middle, self._likely_best, self._unsure)
        for rule in rules:
            for configuration in rule():
                if configuration not in self._seen and self._why_not(configuration) is None:
                    return configuration
        return None

    @property
    def asks_one_at_a_time(self) -> bool:
        return not self._seen  # without a queue all configurations are alike

    def record(self, seen: Seen) -> None:
        self._seen[seen.configuration] = seen
        self._laws = _laws(self._known(), self._batch_per_request)

    def given_up(self, configuration: Configuration) -> None:
        # what its closed loop showed before stays known
        self._seen.setdefault(configuration, Seen(configuration=configuration, failed=True))

    def left_out(self, configuration: Configuration) -> None:
        self._seen.setdefault(configuration, Seen(configuration=configuration))

    def no_open_loop(self, seen: Seen) -> str | None:
        why = broken(seen, self._constraints, self._batch_per_request)
        if why is not None:
            return why
        better = next((one for one in self._known() if one is not seen and _beats(one, seen)), None)
        return None if better is None else f"{better.configuration} serves as much and takes no more"

    def fitted(self) -> list[Fitted]:
        if self._hopeless() is not None:
            return []
        found = (self._fitted(c) for c in self._all if c not in self._seen and self._why_not(c) is None)
        return [one for one in found if one is not None]

    def pruned(self) -> list[Pruned]:
        left = [c for c in self._all if c not in self._seen]
        if (why := self._hopeless()) is not None:
            return [Pruned(c, why) for c in left]
        return [Pruned(c, why) for c in left if (why := self._why_not(c) or self._untold(c)) is not None]

    # rules, in the order in which they are asked

    def _corners(self) -> Iterator[Configuration]:
        fewest = self._counts[0]
        for batch in (self._batches[-1], self._batches[0]):
            yield from self._at(fewest, batch)

    def _more_instances(self) -> Iterator[Configuration]:
        """At the largest and the smallest batch: about twice as many, as long as the last step paid."""
        for batch in self._ends():
            ladder = self._ladder(batch)
            if len(ladder) == 1 or (len(ladder) > 1 and _pays(*ladder[-2:])):
                enough = [n for n in self._counts if n >= 2 * ladder[-1].configuration.instances]
                more = [*enough[:1], self._counts[-1]]
                yield from self._at(more[0], batch)

    def _other_delays(self) -> Iterator[Configuration]:
        """One configuration of each: the same work, but another latency where there is little load."""
        fewest, largest = self._counts[0], self._batches[-1]
        yield from (
            c for c in self._all if c.instances == fewest and c.max_batch_size == largest and not self._is_main(c)
        )

    def _middle(self) -> Iterator[Configuration]:
        """A batch size halfway: with three the law of the batch is put to a test."""
        if len(self._batches) > 2:
            yield from self._at(self._counts[0], self._batches[len(self._batches) // 2])

    def _likely_best(self) -> Iterator[Configuration]:
        """What would be recommended is never left to a law: the fastest, and the leanest that is nearly as fast."""
        fits = [fit for c in self._open() if (fit := self._fitted(c)) is not None]
        best = max((s.inferences_per_s or 0.0 for s in self._known()), default=0.0)
        yield from (
            fit.configuration
            for fit in sorted(fits, key=lambda fit: -fit.inferences_per_s)
            if fit.inferences_per_s > LIKELY_BETTER * best
        )
        near = [s for s in self._known() if (s.inferences_per_s or 0.0) >= NEARLY_BEST * best]
        least = min((s.memory_bytes for s in near if s.memory_bytes is not None), default=None)
        if least is not None:
            yield from (
                fit.configuration
                for fit in sorted(fits, key=lambda fit: fit.memory_bytes or 0)
                if fit.inferences_per_s >= NEARLY_BEST * best and (fit.memory_bytes or least) < least / (1 + WITHIN)
            )

    def _unsure(self) -> Iterator[Configuration]:
        """Where no law tells it: nearest to where a law was off the most, and there far from what was measured.

        Where the laws do not hold that would end with all of them, so a part has to do."""
        if len(self._seen) >= self._few:
            return
        untold = [c for c in self._open() if self._fitted(c) is None]
        worst = self._worst_place()
        measured = [self._place(s.configuration) for s in self._known()]

        def order(c: Configuration) -> tuple[float, float]:
            place = self._place(c)
            apart = min((_apart(place, other) for other in measured), default=0.0)
            return (0.0 if worst is None else _apart(place, worst), -apart)

        yield from sorted(untold, key=order)

    # what they ask

    def _is_main(self, c: Configuration) -> bool:
        return c.max_batch_size <= 1 or c.queue_delay_us == self._main_delay

    def _at(self, instances: int, batch: int) -> list[Configuration]:
        return [c for c in self._main if c.instances == instances and c.max_batch_size == batch]

    def _known(self) -> list[Seen]:
        return [seen for seen in self._seen.values() if seen.inferences_per_s is not None]

    def _open(self) -> list[Configuration]:
        return [c for c in self._all if c not in self._seen and self._why_not(c) is None]

    def _ladder(self, batch: int) -> list[Seen]:
        known = [s for s in self._known() if s.configuration.max_batch_size == batch and self._is_main(s.configuration)]
        return sorted(known, key=lambda s: s.configuration.instances)

    def _ends(self) -> list[int]:
        """The largest and the smallest batch, without one that does not work."""
        works = {s.configuration.max_batch_size for s in self._known()}
        return [batch for batch in dict.fromkeys((self._batches[-1], self._batches[0])) if batch in works]

    def _hopeless(self) -> str | None:
        """Why nothing more of this model is worth a look."""
        for seen in self._seen.values():
            if (why := self._constraints.on_lone_request(seen.lone_ms)) is not None:
                return why
        corners = list(self._corners())
        if not self._known() and all(corner in self._seen for corner in corners):
            return "nothing was measured with the fewest instances, at the largest and the smallest batch"
        return None

    def _why_not(self, c: Configuration) -> str | None:
        """Why a configuration need not be known."""
        return self._too_large(c) or self._too_many(c) or self._too_slow(c)

    def _too_large(self, c: Configuration) -> str | None:
        smallest = (self._counts[0], self._batches[0])
        for seen in self._seen.values():
            less = seen.configuration
            if less.instances > c.instances or less.max_batch_size > c.max_batch_size:
                continue
            if seen.failed and (less.instances, less.max_batch_size) != smallest:
                return f"{less} already failed"
            if (why := self._constraints.on_memory(seen.memory_bytes)) is not None:
                return f"{less} already {why}"
        fitted = self._fitted(c)
        return None if fitted is None else self._constraints.on_memory((fitted.memory_bytes or 0) * (1 - fitted.within))

    def _too_many(self, c: Configuration) -> str | None:
        """More instances than paid, at either end of the batch sizes."""
        ladders = [self._ladder(batch) for batch in self._ends()]
        if not ladders or any(len(ladder) < 2 or _pays(*ladder[-2:]) for ladder in ladders):
            return None
        most = max(ladder[-1].configuration.instances for ladder in ladders)
        if c.instances <= most:
            return None
        gain = max(_gain(*ladder[-2:]) for ladder in ladders)
        return f"the step to {most} instances brought {gain:+.0%}, so more are not measured"

    def _too_slow(self, c: Configuration) -> str | None:
        fitted = self._fitted(c)
        if fitted is None:
            return None
        most_rps = fitted.inferences_per_s * (1 + fitted.within) / self._batch_per_request
        return self._constraints.on_rate(most_rps)

    def _untold(self, c: Configuration) -> str | None:
        """Why a configuration that no law tells was not measured."""
        if self._fitted(c) is not None:
            return None
        return f"no law tells it, and {len(self._seen)} of {len(self._all)} were tried"

    # laws

    def _place(self, c: Configuration) -> Place:
        return _place(c, self._batch_per_request)

    def _tolerance(self) -> float:
        """What repeated measurements of one point may differ by, too."""
        noise = [s.noise for s in self._known()]
        return min(NOISE_MAX, max(WITHIN, median(noise))) if noise else WITHIN

    def _worst_place(self) -> Place | None:
        time = self._laws.time
        if time is None or not time.spare:
            return None
        return max(zip(map(abs, time.residuals), self._laws.places, strict=True))[1]

    def _fitted(self, c: Configuration) -> Fitted | None:
        """What the laws say, where the time per batch held and `c` lies between what was measured."""
        time, device = self._laws.time, self._laws.device
        place, within = self._place(c), self._tolerance()
        if time is None or not time.spare or time.worst > within or not self._is_between(place):
            return None
        seconds = time.at(place)
        if seconds is None:
            return None
        busy_s = None if device is None else device.at(place)
        return Fitted(
            configuration=c,
            inferences_per_s=place[1] / seconds,
            memory_bytes=self._fitted_memory(c),
            busy=None if busy_s is None else min(1.0, busy_s / seconds),
            within=max(time.worst, *(s.noise for s in self._known())),
            laws=tuple(law for law in (time, device, self._laws.memory) if law is not None),
        )

    def _fitted_memory(self, c: Configuration) -> int | None:
        """By the law and what it was off by; where it did not hold, the least of what surely takes as much."""
        law = self._laws.memory
        if law is not None and law.spare and law.worst <= WITHIN:
            memory_bytes = law.at(_memory_place(c))
            if memory_bytes is not None:
                return ceil(memory_bytes * (1 + law.worst))
        larger = [
            s.memory_bytes
            for s in self._known()
            if s.memory_bytes is not None
            and s.configuration.instances >= c.instances
            and s.configuration.max_batch_size >= c.max_batch_size
        ]
        return min(larger, default=None)

    def _is_between(self, place: Place) -> bool:
        return all(
            any(other[axis] <= place[axis] for other in self._laws.places)
            and any(other[axis] >= place[axis] for other in self._laws.places)
            for axis in (0, 1)
        )


@dataclass(frozen=True, slots=True)
class _Laws:
    """`places` are those that the law of time rests on, in its order."""

    places: tuple[Place, ...]
    time: Law | None
    device: Law | None
    memory: Law | None


def _laws(known: Sequence[Seen], batch_per_request: int) -> _Laws:
    # where the load generator was the limit, or others were busy on the device, the rate says nothing of the server
    known = [s for s in known if not s.client_bound and not s.disturbed]
    places = [_place(s.configuration, batch_per_request) for s in known]
    seconds = [place[1] / (s.inferences_per_s or 1.0) for place, s in zip(places, known, strict=True)]
    used = [(place, s.busy * t) for place, s, t in zip(places, known, seconds, strict=True) if s.busy]
    sized = [(_memory_place(s.configuration), s.memory_bytes) for s in known if s.memory_bytes]
    return _Laws(
        tuple(places),
        laws.fit("seconds per batch", laws.batch_seconds, places, seconds),
        laws.fit("device seconds per batch", laws.device_seconds, [p for p, _ in used], [v for _, v in used]),
        laws.fit("hot memory", laws.memory, [p for p, _ in sized], [v for _, v in sized]),
    )


def _place(c: Configuration, batch_per_request: int) -> Place:
    batches = c.queue_delay_us is not None and c.max_batch_size > 1
    return (c.instances, c.max_batch_size if batches else batch_per_request)


def _memory_place(c: Configuration) -> Place:
    # the warm-up fills a batch, also where the server does not put requests together
    return (c.instances, max(1, c.max_batch_size))


def _gain(less: Seen, more: Seen) -> float:
    return (more.inferences_per_s or 0.0) / (less.inferences_per_s or 1.0) - 1


def _pays(less: Seen, more: Seen) -> bool:
    # where the load generator is the limit, more of the server cannot be seen to pay
    if more.client_bound:
        return False
    # beside others that were busy on the device, it cannot be seen that more does not pay
    return more.disturbed or _gain(less, more) + hypot(less.noise, more.noise) > PAYS - 1


def _beats(one: Seen, other: Seen) -> bool:
    """No worse in memory, device time per inference, rate and waiting for a batch, as far as 5 % can tell; where
    that leaves the two even, fewer instances and smaller batches win."""
    a, b = one.configuration, other.configuration
    if (a.queue_delay_us or 0) > (b.queue_delay_us or 0):
        return False
    pairs = [
        (one.memory_bytes, other.memory_bytes),
        (_busy_s(one), _busy_s(other)),
        (_inverse(one.inferences_per_s), _inverse(other.inferences_per_s)),
    ]
    no_worse = all(x is None or y is None or x <= (1 + WITHIN) * y for x, y in pairs)
    better = any(x is not None and y is not None and (1 + WITHIN) * x < y for x, y in pairs)
    return no_worse and (better or (a.instances, a.max_batch_size) < (b.instances, b.max_batch_size))


def _busy_s(seen: Seen) -> float | None:
    return None if seen.busy is None or not seen.inferences_per_s else seen.busy / seen.inferences_per_s


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None


def _apart(one: Place, other: Place) -> float:
    return abs(log2(one[0] / other[0])) + abs(log2(one[1] / other[1]))
