"""One attempt at packing: each replica goes to the first device where it fits, or to the least busy one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heapreplace

from planner.domain.ensemble import Ensemble
from planner.domain.mig import Part, may_join
from planner.domain.objectives import growth_base_mrps
from planner.domain.problem import Device, Model, Objective, Option, Problem
from planner.domain.units import PPM
from solvers.loading import Loading
from solvers.reduction import Choice, Reduction
from solvers.stopping import stop_if_asked

Measure = Callable[[Sequence[float]], float]
Price = Callable[[Choice], float]
# How well a replica's shares (memory, busy time) go with what is free on a device.
Score = Callable[[Sequence[float], Sequence[float]], float]

# So many options per model are tried on devices in use; all of them on a device that is taken anew.
BREADTH = 6


class Sizes:
    """How large a choice is, as a part of a GPU: its shares of memory, busy time and instances in one number."""

    def __init__(self, reduction: Reduction, measure: Measure, *, price: Price) -> None:
        self.shares = {c: _shares(c) for c in reduction.choices}
        self._size = {
            c: measure(self.shares[c]) * price(c) * _part_of_gpu(c) * c.option.gpus for c in reduction.choices
        }
        self.rankings = {
            name: sorted(row, key=lambda c: self._size[c] / c.capacity_mrps) for name, row in reduction.by_model.items()
        }
        self._largest = {name: max(c.capacity_mrps for c in row) for name, row in self.rankings.items() if row}
        self._smallest = {name: min(c.capacity_mrps for c in row) for name, row in self.rankings.items() if row}

    def of_replica(self, model: Model) -> float:
        """The size of one replica by the best choice; 0 where there is none."""
        ranked = self.rankings[model.name]
        return self._size[ranked[0]] if ranked else 0.0

    def of_demand(self, model: Model) -> float:
        ranked = self.rankings[model.name]
        return self._size[ranked[0]] * max(1.0, model.peak_mrps / ranked[0].capacity_mrps) if ranked else 0.0

    def for_next(self, model: Model, replicas: int, missing_mrps: int, elsewhere_mrps: int = 0) -> list[Choice]:
        """Choices for the next replica, best first, without those with which the demand cannot be reached any more.

        `replicas`: so many there are; `elsewhere_mrps`: what a rule misses at the place where it will stand.
        """
        least = 0
        if model.replicas_max is not None:
            room = model.replicas_max - replicas
            if room <= 0:
                return []
            least = missing_mrps - (room - 1) * self._largest.get(model.name, 0)
        return self._ranked(model, max(missing_mrps, elsewhere_mrps), least)

    def _ranked(self, model: Model, missing_mrps: int, least_mrps: int) -> list[Choice]:
        """Choices by size per request that is still missing, without those below `least_mrps`."""
        row = self.rankings[model.name]
        if row and missing_mrps >= self._largest[model.name] and least_mrps <= self._smallest[model.name]:
            return row
        row = [c for c in row if c.capacity_mrps >= least_mrps]
        if missing_mrps <= 0:
            return sorted(row, key=lambda c: self._size[c])
        return sorted(row, key=lambda c: self._size[c] / min(c.capacity_mrps, missing_mrps))


def _shares(choice: Choice) -> tuple[float, ...]:
    option, kind = choice.option, choice.kind
    if option.gpus > 1:
        return (1.0, 1.0, 1.0)  # of each GPU, whatever it takes of them
    limit = min(kind.utilization_ppm, (choice.borne_ppm2 + max(choice.own_ppm2)) // PPM)
    memory = option.memory_bytes / max(1, kind.memory_bytes - kind.server_base_bytes)
    busy = max(option.busy_ppm) / max(1, limit)
    others = 0.0 if choice.max_others is None else option.instances / (option.instances + choice.max_others)
    least = 1e-9  # so that a replica that takes nothing still has a size
    return (max(memory, least), max(busy, least), others)


def _part_of_gpu(choice: Choice) -> float:
    mig = choice.kind.mig
    return 1.0 if mig is None else mig.compute / mig.gpu_compute


class Slicing:
    """Which devices go with those in use on the same GPU: all of them, or those of one MIG layout."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._sliced = any(kind.mig is not None for kind in problem.kinds)
        self._used: dict[str, list[Part]] = {}

    def allows(self, device: Device) -> bool:
        return not self._sliced or may_join(self._problem.part(device), self._used.get(device.gpu, ()))

    def use(self, device: Device) -> None:
        if self._sliced:
            self._used.setdefault(device.gpu, []).append(self._problem.part(device))

    def leave(self, device: Device) -> None:
        if self._sliced:
            self._used[device.gpu].remove(self._problem.part(device))


class Stock:
    """Empty devices by kind. The rest of a GPU that came into use goes first: it costs nothing more."""

    def __init__(self, devices: Iterable[Device], slicing: Slicing) -> None:
        self._slicing = slicing
        self._empty: dict[str, list[Device]] = {}
        self._opened: dict[str, list[Device]] = {}
        self._siblings: dict[str, list[Device]] = {}
        self._taken: set[str] = set()
        self._known: set[str] = set()
        for device in devices:
            self._known.add(device.id)
            self._empty.setdefault(device.kind, []).append(device)
            self._siblings.setdefault(device.gpu, []).append(device)
        for row in self._empty.values():
            row.reverse()

    def take_this(self, device: Device) -> bool:
        """Whether the device was empty until now."""
        if device.id not in self._known or device.id in self._taken or not self._slicing.allows(device):
            return False
        self._use(device)
        return True

    def take(self, kind: str) -> Device | None:
        for rows in (self._opened, self._empty):
            row = rows.get(kind, [])
            while row:
                device = row.pop()
                if device.id not in self._taken and self._slicing.allows(device):
                    self._use(device)
                    return device
        return None

    def _use(self, device: Device) -> None:
        self._taken.add(device.id)
        self._slicing.use(device)
        for sibling in reversed(self._siblings.pop(device.gpu, [])):
            self._opened.setdefault(sibling.kind, []).append(sibling)


class Packing:
    """Devices being filled. `trials` counts the questions asked of them.

    `spread`: all devices are in use from the start, and a replica goes to the least busy one where it fits.
    """

    def __init__(self, reduction: Reduction, sizes: Sizes, devices: Sequence[Device], *, spread: bool = False) -> None:
        self._problem = reduction.problem
        self._reduction = reduction
        self._sizes = sizes
        self._spread = spread
        self._slicing = Slicing(reduction.problem)
        self._stock = Stock(() if spread else devices, self._slicing)
        self._open: dict[str, list[Loading]] = {kind.name: [] for kind in self._problem.kinds}
        self._served = {model.name: 0 for model in self._problem.models}
        self._counts = {model.name: 0 for model in self._problem.models}
        # Something of every model is wanted where the objectives count models or growth.
        counted = {Objective.MODELS, Objective.THROUGHPUT} & set(self._problem.objectives)
        self._wanted_at_least = 1 if counted else 0
        self.trials = 0
        for device in devices if spread else ():
            self._open[device.kind].append(self._loading(device))

    def place(self, model: Model) -> bool:
        """Serve the model as far as possible; False where the demand or the replicas asked for do not fit.

        A member of an ensemble that Triton serves brings the others with it.
        """
        ensemble = self._problem.served_by_triton.get(model.name)
        if ensemble is not None:
            return self._place_ensemble(ensemble)
        cursors: dict[Choice, int] = {}
        while self._waits(model):
            stop_if_asked()
            if not self._add(model, cursors):
                break
        count = self._counts[model.name]
        if count < model.replicas_min and self._problem.allow_unserved:
            self._drop(model)
        return self._missing(model) <= 0 and count >= model.replicas_min

    def stay(self) -> None:
        """Put what runs now where it runs, as far as it is asked for and fits."""
        problem = self._problem
        for running in problem.current:
            device, model = problem.device_by_id.get(running.device), problem.model_by_name.get(running.model)
            if device is None or device.cordoned or model is None or not self._waits(model):
                continue
            loading = next((one for one in self._open[device.kind] if one.device is device), None)
            empty = self._loading(device) if loading is None else loading
            equal = [c for c in self._ranked(model) if c.option.configuration == running.configuration]
            choice = next((c for c in equal if c.option.kind == device.kind and empty.fits(c)), None)
            if choice is None or not self._may_use(empty):
                continue
            if loading is None:
                if not self._stock.take_this(device):
                    continue
                self._open[device.kind].append(empty)
            self._put(choice, empty)

    def _place_ensemble(self, ensemble: Ensemble) -> bool:
        members = [self._problem.model_by_name[name] for name in ensemble.models]
        while self._asks(ensemble, members):
            stop_if_asked()
            if not self._add_server(members):
                short = any(self._counts[model.name] < model.replicas_min for model in members)
                for model in members if short and self._problem.allow_unserved else ():
                    self._drop(model)
                return False
        return True

    def _asks(self, ensemble: Ensemble, members: Sequence[Model]) -> bool:
        if any(self._waits(model) for model in members):
            return True
        served = 0
        for loading in self._all_open():
            capacity = dict.fromkeys(ensemble.models, 0)
            for choice in loading.placed:
                if choice.option.model in capacity:
                    capacity[choice.option.model] += choice.capacity_mrps
            if 0 < sum(map(bool, capacity.values())) < len(capacity):
                return True  # something that stays waits for the others
            served += min(capacity[member.model] // member.calls for member in ensemble.members)
        return served < max(ensemble.demand_mrps)

    def _all_open(self) -> list[Loading]:
        found = [loading for row in self._open.values() for loading in row]
        return sorted(found, key=lambda loading: loading.peak_share) if self._spread else found

    def _add_server(self, members: Sequence[Model]) -> bool:
        """All members that are missing on one device, in use or not."""
        for loading in self._all_open():
            if self._may_use(loading) and self._put_all(members, loading):
                return True
        kinds = dict.fromkeys(choice.option.kind for choice in self._sizes.rankings[members[0].name])
        for kind in kinds:
            device = self._stock.take(kind)
            if device is not None:
                loading = self._loading(device)
                self._open[kind].append(loading)
                if self._put_all(members, loading):
                    return True
        return False

    def _put_all(self, members: Sequence[Model], loading: Loading) -> bool:
        here = {choice.option.model for choice in loading.placed}
        missing = [model for model in members if model.name not in here]
        if any(m.replicas_max is not None and self._counts[m.name] >= m.replicas_max for m in missing):
            return False
        for patient in (False, True):
            trial = self._loading(loading.device)
            for choice in loading.placed:
                trial.put(choice)
            chosen = []
            for model in missing:
                self.trials += 1
                row = [c for c in self._sizes.rankings[model.name] if c.option.kind == loading.kind.name]
                if patient:  # what bears most first
                    row.sort(key=lambda choice: -choice.borne_ppm2)
                fitting = next((choice for choice in row if trial.fits(choice)), None)
                if fitting is None:
                    break
                trial.put(fitting)
                chosen.append(fitting)
            if missing and len(chosen) == len(missing):
                for choice in chosen:
                    self._put(choice, loading)
                return True
        return False

    def fill(self, order: Sequence[Model], score: Score) -> Model | None:
        """Device by device, always with the waiting choice of the highest score; the model that stays unserved.

        Only one choice per model is tried on a device: the best by size for what the model still misses.
        """
        waiting = [model for model in order if self._waits(model)]
        before: list[Choice] = []
        filled: list[Choice] = []
        while waiting:
            stop_if_asked()
            loading = self._next_device(waiting[0])
            if loading is None:
                return waiting[0]
            candidates = self._candidates(waiting, loading.kind.name)
            again = filled if candidates == before else []
            before, filled = candidates, loading.placed
            self._repeat(again, loading)
            self._fill_one(loading, candidates, score)
            waiting = [model for model in waiting if self._waits(model)]
        return None

    def _candidates(self, waiting: Sequence[Model], kind: str) -> list[Choice]:
        found = []
        for model in waiting:
            best = next((c for c in self._ranked(model) if c.option.kind == kind), None)
            if best is not None:
                found.append(best)
        return found

    def _repeat(self, filled: Sequence[Choice], loading: Loading) -> None:
        """The same candidates fill the next device in the same way, as long as all of them wait."""
        for choice in filled:
            if not self._waits(self._model(choice)):
                break
            self._put(choice, loading)

    def _fill_one(self, loading: Loading, candidates: list[Choice], score: Score) -> None:
        # What does not fit once never fits again on this device; the last one put may have been served by it.
        candidates = [c for c in candidates if self._waits(self._model(c))]
        while candidates:
            self.trials += len(candidates)
            candidates = [c for c in candidates if loading.fits(c)]
            if candidates:
                free, shares = loading.free_shares, self._sizes.shares
                best = max(candidates, key=lambda c: score(shares[c], free))
                self._put(best, loading)
                if not self._waits(self._model(best)):
                    candidates.remove(best)

    def grow(self, *, new_devices: bool) -> None:
        """Add replicas while any fits, always to the model that can grow least."""
        if not new_devices:
            self._stock = Stock((), self._slicing)
        waiting = []
        for place, model in enumerate(self._problem.models):
            base = growth_base_mrps(model.peak_mrps, model.demand_mrps is not None)
            if base and self._counts[model.name] and model.name not in self._problem.served_by_triton:
                waiting.append((self._served[model.name] / base, place, base))
        heapify(waiting)
        cursors: dict[Choice, int] = {}
        while waiting:
            _, place, base = waiting[0]
            model = self._problem.models[place]
            if self._add(model, cursors):
                heapreplace(waiting, (self._served[model.name] / base, place, base))
            else:
                heappop(waiting)

    def pairs(self) -> list[tuple[Option, tuple[Device, ...]]]:
        return [(c.option, (loading.device,)) for row in self._open.values() for loading in row for c in loading.placed]

    def _waits(self, model: Model) -> bool:
        wanted = max(model.replicas_min, self._wanted_at_least)
        return self._missing(model) > 0 or self._counts[model.name] < wanted

    def _model(self, choice: Choice) -> Model:
        return self._problem.model_by_name[choice.option.model]

    def _next_device(self, model: Model) -> Loading | None:
        """An empty device of the kind that suits the model best among those in stock."""
        for choice in self._ranked(model):
            device = self._stock.take(choice.option.kind)
            if device is not None:
                loading = self._loading(device)
                self._open[device.kind].append(loading)
                return loading
        return None

    def _missing(self, model: Model) -> int:
        return model.peak_mrps - self._served[model.name]

    def _add(self, model: Model, cursors: dict[Choice, int]) -> bool:
        """One replica more. `cursors`: the first device of the kind that did not refuse the choice yet."""
        ranked = self._ranked(model)
        return (
            any(self._put_on_open(choice, cursors) for choice in ranked[:BREADTH])
            or any(self._put_on_new(choice) for choice in ranked)
            or any(self._put_on_open(choice, cursors) for choice in ranked[BREADTH:])
        )

    def _ranked(self, model: Model) -> Sequence[Choice]:
        return self._sizes.for_next(model, self._counts[model.name], self._missing(model))

    def _put_on_open(self, choice: Choice, cursors: dict[Choice, int]) -> bool:
        row = self._open[choice.option.kind]
        if self._spread:
            self.trials += len(row)
            fitting = [loading for loading in row if loading.fits(choice) and self._may_use(loading)]
            if fitting:
                self._put(choice, min(fitting, key=lambda loading: loading.peak_share))
            return bool(fitting)
        for place in range(cursors.get(choice, 0), len(row)):
            self.trials += 1
            if row[place].fits(choice):
                cursors[choice] = place
                self._put(choice, row[place])
                return True
        cursors[choice] = len(row)
        return False

    def _put_on_new(self, choice: Choice) -> bool:
        device = self._stock.take(choice.option.kind)
        if device is None:
            return False
        loading = self._loading(device)
        self._open[device.kind].append(loading)
        self._put(choice, loading)
        return True

    def _may_use(self, loading: Loading) -> bool:
        return not self._spread or bool(loading.placed) or self._slicing.allows(loading.device)

    def _put(self, choice: Choice, loading: Loading) -> None:
        if self._spread and not loading.placed:
            self._slicing.use(loading.device)
        loading.put(choice)
        self._served[choice.option.model] += choice.capacity_mrps
        self._counts[choice.option.model] += 1

    def _drop(self, model: Model) -> None:
        for row in self._open.values():
            for place, loading in enumerate(row):
                if any(c.option.model == model.name for c in loading.placed):
                    row[place] = rest = self._loading(loading.device)
                    for choice in loading.placed:
                        if choice.option.model != model.name:
                            rest.put(choice)
        self._served[model.name] = self._counts[model.name] = 0

    def _loading(self, device: Device) -> Loading:
        problem = self._problem
        kind = problem.kind_by_name[device.kind]
        return Loading(device, kind, problem.max_per_device, len(problem.periods))
