"""One attempt at packing where rules look further than one device: first fit, in the places that the rules need.

Models that must stand together are put down as one bundle, a replica of each on the same device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heapreplace
from itertools import chain, islice, product

from planner.domain.objectives import growth_base_mrps
from planner.domain.problem import Device, Model, Objective, Option
from solvers.loading import Loading
from solvers.packing import Sizes, Slicing
from solvers.reduction import Choice, Reduction
from solvers.sites import Sites, Where, anywhere
from solvers.stopping import stop_if_asked

Bundle = tuple[Choice, ...]

# So many ways to put a bundle on one device are tried.
BUNDLES = 24


class SitedPacking:
    """Takes and gives what `Packing` does. `trials` counts the questions asked of devices.

    `spread`: a replica goes to the least busy device where it fits.
    """

    def __init__(self, reduction: Reduction, sizes: Sizes, devices: Sequence[Device], *, spread: bool = False) -> None:
        self._reduction = reduction
        self._problem = reduction.problem
        self._sizes = sizes
        self._devices = devices
        self._spread = spread
        counted = {Objective.MODELS, Objective.THROUGHPUT} & set(self._problem.objectives)
        self._wanted_at_least = 1 if counted else 0
        self._pins_tried = False
        self._empty: dict[str, list[Device]] = {}
        self.trials = 0
        self._restart(())

    def place(self, model: Model) -> bool:
        """Serve the model, and what stands together with it, as far as possible; False where something is missing."""
        if not self._pins_tried:
            self._pins_tried = True
            for model_name in dict.fromkeys(pin.model for pin in self._problem.pinned):
                self._place_pins(self._problem.model_by_name[model_name])
        members = self._members(model)
        while True:
            stop_if_asked()
            waiting = next((m for m in members if self._waits(m)), None)
            if waiting is None:
                return True
            if not self._add(waiting):
                break
        whole = all(self._complete(m) for m in members)
        if not whole and self._problem.allow_unserved:
            self._drop({m.name for m in members})
        return False

    def stay(self) -> None:
        """Put what runs now where it runs, as far as it is asked for and fits."""
        for running in self._problem.current:
            device, model = (
                self._problem.device_by_id.get(running.device),
                self._problem.model_by_name.get(running.model),
            )
            if device is None or device.cordoned or model is None or not self._waits(model):
                continue
            where = running.devices
            ranked = [
                c
                for c in self._ranked(model, 0)
                if c.option.configuration == running.configuration and c.option.gpus == len(where)
            ]
            self._put_somewhere(model, lambda device, where=where: device.id in where, ranked)  # type: ignore[misc]

    def grow(self, *, new_devices: bool) -> None:
        """Add replicas while any fits, always to the model that can grow least."""
        if not new_devices:
            self._empty = {}
        waiting = []
        for place, model in enumerate(self._problem.models):
            base = growth_base_mrps(model.peak_mrps, model.demand_mrps is not None)
            if base and self._counts[model.name]:
                waiting.append((self._served[model.name] / base, place, base))
        heapify(waiting)
        while waiting:
            _, place, base = waiting[0]
            model = self._problem.models[place]
            if self._put_somewhere(model, anywhere, self._ranked(model, 0)):
                heapreplace(waiting, (self._served[model.name] / base, place, base))
            else:
                heappop(waiting)

    def pairs(self) -> list[tuple[Option, tuple[Device, ...]]]:
        return [(choice.option, devices) for choice, devices in self._stands()]

    def _stands(self) -> list[tuple[Choice, tuple[Device, ...]]]:
        alone = [(c, (o.device,)) for o in self._all_opened() for c in o.placed if c.option.gpus == 1]
        return [*alone, *self._spanning]

    def _place_pins(self, model: Model) -> None:
        """Before others take the places."""
        while self._sites.misses_pin(model) and self._add(model):
            pass

    def _members(self, model: Model) -> list[Model]:
        return [self._problem.model_by_name[name] for name in self._reduction.partners[model.name]]

    def _complete(self, model: Model) -> bool:
        """Whether all is there that a model needs to be in the plan at all."""
        if not self._counts[model.name]:
            return not model.replicas_min
        return self._counts[model.name] >= model.replicas_min and self._sites.needed(model) is None

    def _waits(self, model: Model) -> bool:
        wanted = max(model.replicas_min, self._wanted_at_least)
        if self._missing(model) > 0 or self._counts[model.name] < wanted:
            return True
        asked_for = self._counts[model.name] > 0 or not self._problem.allow_unserved
        return asked_for and self._sites.needed(model) is not None

    def _missing(self, model: Model) -> int:
        return model.peak_mrps - self._served[model.name]

    def _add(self, model: Model) -> bool:
        """One replica more, where the rules need it."""
        needed = self._sites.needed(model)
        where, missing = (anywhere, 0) if needed is None else needed
        return self._put_somewhere(model, where, self._ranked(model, missing))

    def _ranked(self, model: Model, missing_elsewhere: int) -> Sequence[Choice]:
        return self._sizes.for_next(model, self._counts[model.name], self._missing(model), missing_elsewhere)

    def _put_somewhere(self, model: Model, where: Where, ranked: Sequence[Choice]) -> bool:
        return any(self._put_on_open(bundle, where) for bundle in self._bundles(model, ranked)) or any(
            self._put_on_new(bundle, where) for bundle in self._bundles(model, ranked)
        )

    def _bundles(self, model: Model, ranked: Sequence[Choice]) -> Iterator[Bundle]:
        others = [name for name in self._reduction.partners[model.name] if name != model.name]
        for choice in ranked:
            rows = [[c for c in self._sizes.rankings[name] if c.kind is choice.kind] for name in others]
            for rest in islice(product(*rows), BUNDLES):
                if self._may_have_more(bundle := (choice, *rest)):
                    yield bundle

    def _put_on_open(self, bundle: Bundle, where: Where) -> bool:
        """Where a choice did not fit beside the others once it never will: such devices are not asked again."""
        choice, best = bundle[0], None
        if choice.option.gpus > 1:
            return False
        opened = self._opened[choice.kind.name]
        asked, maybe = self._candidates.get(choice, (0, []))
        row, kept = [*maybe, *opened[asked:]], []
        for place, loading in enumerate(row, start=1):
            self.trials += 1
            if not loading.fits(choice):
                continue
            kept.append(loading)
            if not where(loading.device) or not self._may_join(bundle, loading):
                continue
            if best is None or loading.peak_share < best.peak_share:
                best = loading
            if not self._spread:
                kept += row[place:]
                break
        self._candidates[choice] = len(opened), kept
        if best is None:
            return False
        self._put(bundle, best)
        return True

    def _put_on_new(self, bundle: Bundle, where: Where) -> bool:
        row = self._empty.get(bundle[0].kind.name, [])
        if bundle[0].option.gpus > 1:
            return self._put_over(bundle, row, where)
        for place, device in enumerate(row):
            self.trials += 1
            if where(device) and self._slicing.allows(device):
                loading = self._loading(device)
                if loading.fits(bundle[0]) and self._may_join(bundle, loading):
                    del row[place]
                    self._opened[loading.kind.name].append(loading)
                    self._slicing.use(device)
                    self._put(bundle, loading)
                    return True
        return False

    def _put_over(self, bundle: Bundle, row: list[Device], where: Where) -> bool:
        """On empty devices of one node, of those that have enough the one with fewest."""
        choice, by_node = bundle[0], dict[str, list[Device]]()
        for device in row if len(bundle) == 1 else ():
            if self._slicing.allows(device):
                by_node.setdefault(device.node, []).append(device)
        for free in sorted(by_node.values(), key=len):
            self.trials += 1
            wanted = [device for device in free if where(device)]
            chosen = tuple([*wanted, *(device for device in free if device not in wanted)][: choice.option.gpus])
            if len(chosen) == choice.option.gpus and wanted and self._sites.allow(bundle, chosen, ()):
                for device in chosen:
                    row.remove(device)
                self._put_spanning(choice, chosen)
                return True
        return False

    def _put_spanning(self, choice: Choice, devices: tuple[Device, ...]) -> None:
        for device in devices:
            loading = self._loading(device)
            loading.put(choice)
            self._opened[choice.kind.name].append(loading)
            self._slicing.use(device)
        self._spanning.append((choice, devices))
        self._count(choice, devices)

    def _may_join(self, bundle: Bundle, loading: Loading) -> bool:
        """Whether a bundle, whose first choice fits, breaks no rule between devices, and the rest of it fits too."""
        if not self._sites.allow(bundle, (loading.device,), loading.placed):
            return False
        if len(bundle) == 1:
            return True
        trial = self._loading(loading.device)
        for choice in loading.placed:
            trial.put(choice)
        for choice in bundle:
            if not trial.fits(choice):
                return False
            trial.put(choice)
        return True

    def _may_have_more(self, bundle: Bundle) -> bool:
        models = (self._problem.model_by_name[choice.option.model] for choice in bundle)
        return all(m.replicas_max is None or self._counts[m.name] < m.replicas_max for m in models)

    def _put(self, bundle: Bundle, loading: Loading) -> None:
        for choice in bundle:
            loading.put(choice)
            self._count(choice, (loading.device,))

    def _count(self, choice: Choice, devices: tuple[Device, ...]) -> None:
        self._sites.put(choice, devices)
        self._served[choice.option.model] += choice.capacity_mrps
        self._counts[choice.option.model] += 1

    def _drop(self, models: set[str]) -> None:
        self._restart([(c, devices) for c, devices in self._stands() if c.option.model not in models])

    def _restart(self, placed: Sequence[tuple[Choice, tuple[Device, ...]]]) -> None:
        """Nothing but these replicas."""
        self._sites = Sites(self._reduction)
        self._slicing = Slicing(self._problem)
        self._served = {model.name: 0 for model in self._problem.models}
        self._counts = {model.name: 0 for model in self._problem.models}
        self._opened: dict[str, list[Loading]] = {kind.name: [] for kind in self._problem.kinds}
        self._spanning: list[tuple[Choice, tuple[Device, ...]]] = []
        loadings: dict[str, Loading] = {}
        for choice, devices in placed:
            if choice.option.gpus > 1:
                self._put_spanning(choice, devices)
                continue
            (device,) = devices
            if device.id not in loadings:
                loadings[device.id] = self._loading(device)
                self._slicing.use(device)
                self._opened[choice.kind.name].append(loadings[device.id])
            self._put((choice,), loadings[device.id])
        # By choice: how many of the opened devices were asked, and those of them where it may still fit.
        self._candidates: dict[Choice, tuple[int, list[Loading]]] = {}
        self._empty = {kind.name: [] for kind in self._problem.kinds}
        taken = {device.id for _, devices in placed for device in devices}
        for device in self._devices:
            if device.id not in taken:
                self._empty[device.kind].append(device)

    def _all_opened(self) -> Iterator[Loading]:
        return chain.from_iterable(self._opened.values())

    def _loading(self, device: Device) -> Loading:
        problem = self._problem
        return Loading(device, problem.kind_by_name[device.kind], problem.max_per_device, len(problem.periods))
