"""One attempt at packing where rules look further than one device: first fit, in the places that the rules need.

Models that must stand together are put down as one bundle, a replica of each on the same device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heapreplace
from itertools import chain, islice, product

from planner.domain.objectives import growth_base_mrps
from planner.domain.problem import Device, DeviceKind, Model, Objective, Option
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

    `spread`: a replica goes to the least busy device where it fits. `sizes` may change between any two models.
    """

    def __init__(self, reduction: Reduction, sizes: Sizes, devices: Sequence[Device], *, spread: bool = False) -> None:
        self._reduction = reduction
        self._problem = reduction.problem
        self.sizes = sizes
        self._devices = devices
        self._spread = spread
        counted = {Objective.MODELS, Objective.THROUGHPUT} & set(self._problem.objectives)
        self._wanted_at_least = 1 if counted else 0
        self.trials = 0
        self._restart()

    def _restart(self) -> None:
        """Nothing stands anywhere."""
        self._pins_tried = False
        self._sites = Sites(self._reduction)
        self._slicing = Slicing(self._problem)
        self._served = {model.name: 0 for model in self._problem.models}
        self._counts = {model.name: 0 for model in self._problem.models}
        self._opened: dict[str, list[Loading]] = {kind.name: [] for kind in self._problem.kinds}
        self._by_device: dict[str, Loading] = {}
        self._spanning: list[tuple[Choice, tuple[Device, ...]]] = []
        # By choice: how many of the opened devices were asked, and those of them where it may still fit.
        self._candidates: dict[Choice, tuple[int, list[Loading]]] = {}
        self._empty: dict[str, dict[str, Device]] = {kind.name: {} for kind in self._problem.kinds}
        for device in self._devices:
            self._empty[device.kind][device.id] = device
        self._before: dict[str, tuple[Choice, ...]] = {}

    def place(self, model: Model) -> bool:
        """Serve the model, and what stands together with it, as far as possible; False where something is missing."""
        self._pin()
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

    def resume(self, placed: Sequence[tuple[Choice, Device]]) -> None:
        """Start from what of this breaks no rule, pins first, without replicas that bring others or take more GPUs."""
        pins = {(pin.model, pin.gpu) for pin in self._problem.pinned}
        self._restart()
        self._join((c, device) for c, device in placed if (c.option.model, device.gpu) in pins)
        self._pin()
        self._join((c, device) for c, device in placed if (c.option.model, device.gpu) not in pins)

    def _join(self, placed: Iterable[tuple[Choice, Device]]) -> None:
        for choice, device in placed:
            loading = self._by_device.get(device.id)
            if loading is None and not self._slicing.allows(device):
                continue
            loading = loading or self._loading(device)
            single = len(self._reduction.partners[choice.option.model]) == choice.option.gpus == 1
            if single and loading.fits(choice) and self._sites.allow((choice,), (device,), loading.placed):
                if device.id not in self._by_device:
                    self._open(loading)
                self._put((choice,), loading)

    def thin(self, models: Collection[str] | None = None) -> None:
        """Take away what no rule needs, of these models or of all, from the devices with the least on them first."""
        for loading in sorted(self._all_opened(), key=lambda one: one.peak_share):
            kept = loading.placed
            for choice in kept:
                if (models is None or choice.option.model in models) and self._spares(choice, loading.device):
                    kept = [other for other in kept if other is not choice]
                    self._refill(loading.device, kept)

    def vacate(self, gpus: Collection[str]) -> set[str]:
        """Take all away from GPUs: the models that stood there. `undo` comes back to what was before."""
        self._before = {}
        models: set[str] = set()
        for loading in [one for one in self._all_opened() if one.device.gpu in gpus]:
            models.update(choice.option.model for choice in loading.placed)
            self._refill(loading.device, ())
        return models

    def undo(self) -> None:
        """What each device carried before `vacate`."""
        before, self._before = self._before, {}
        for device in before:
            self._refill(self._problem.device_by_id[device], ())
        for device, content in before.items():
            self._refill(self._problem.device_by_id[device], content)

    def _spares(self, choice: Choice, device: Device) -> bool:
        """Whether nothing is missing without a replica."""
        model = self._problem.model_by_name[choice.option.model]
        return (
            len(self._reduction.partners[model.name]) == choice.option.gpus == 1
            and self._counts[model.name] > max(model.replicas_min, self._wanted_at_least)
            and self._missing(model) + choice.capacity_mrps <= 0
            and self._sites.spares(choice, (device,))
        )

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
            self._empty = {kind.name: {} for kind in self._problem.kinds}
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
        alone = [(c.option, (o.device,)) for o in self._all_opened() for c in o.placed if c.option.gpus == 1]
        return [*alone, *((choice.option, devices) for choice, devices in self._spanning)]

    def used_gpus(self) -> dict[str, DeviceKind]:
        return {loading.device.gpu: loading.kind for loading in self._all_opened()}

    def shares(self) -> dict[str, float]:
        """By GPU in use, how much of its memory or time is taken, whatever is more; summed over its devices."""
        found: dict[str, float] = {}
        for loading in self._all_opened():
            taken = max(1 - min(loading.free_shares), 0.0)
            found[loading.device.gpu] = found.get(loading.device.gpu, 0.0) + taken
        return found

    def _pin(self) -> None:
        """Pinned models before others take their places, once."""
        for name in () if self._pins_tried else dict.fromkeys(pin.model for pin in self._problem.pinned):
            model = self._problem.model_by_name[name]
            while self._sites.misses_pin(model) and self._add(model):
                pass
        self._pins_tried = True

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
        ranked = self._ranked(model, missing)
        uncrowded = self._sites.uncrowded(model, where)
        return (uncrowded is not None and self._put_somewhere(model, uncrowded, ranked)) or self._put_somewhere(
            model, where, ranked
        )

    def _ranked(self, model: Model, missing_elsewhere: int) -> Sequence[Choice]:
        return self.sizes.for_next(model, self._counts[model.name], self._missing(model), missing_elsewhere)

    def _put_somewhere(self, model: Model, where: Where, ranked: Sequence[Choice]) -> bool:
        return any(self._put_on_open(bundle, where) for bundle in self._bundles(model, ranked)) or any(
            self._put_on_new(bundle, where) for bundle in self._bundles(model, ranked)
        )

    def _bundles(self, model: Model, ranked: Sequence[Choice]) -> Iterator[Bundle]:
        others = [name for name in self._reduction.partners[model.name] if name != model.name]
        for choice in ranked:
            rows = [[c for c in self.sizes.rankings[name] if c.kind is choice.kind] for name in others]
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
        memory, busy, limit = choice.option.memory_bytes, choice.option.busy_ppm[0], choice.kind.utilization_ppm
        for place, loading in enumerate(row, start=1):
            self.trials += 1
            # Most devices are full: what shows it at once comes first. Uncertain rates do not just add up.
            if loading.free_bytes < memory or (not self._problem.pools and loading.busy_ppm[0] + busy > limit):
                continue
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
        if bundle[0].option.gpus > 1:
            return self._put_over(bundle, where)
        for device in self._empty[bundle[0].kind.name].values():
            self.trials += 1
            if where(device) and self._slicing.allows(device):
                loading = self._loading(device)
                if loading.fits(bundle[0]) and self._may_join(bundle, loading):
                    self._open(loading)
                    self._put(bundle, loading)
                    return True
        return False

    def _put_over(self, bundle: Bundle, where: Where) -> bool:
        """On empty devices of one node, of those that have enough the one with fewest."""
        choice, by_node = bundle[0], dict[str, list[Device]]()
        for device in self._empty[choice.kind.name].values() if len(bundle) == 1 else ():
            if self._slicing.allows(device):
                by_node.setdefault(device.node, []).append(device)
        for free in sorted(by_node.values(), key=len):
            self.trials += 1
            wanted = [device for device in free if where(device)]
            chosen = tuple([*wanted, *(device for device in free if device not in wanted)][: choice.option.gpus])
            if len(chosen) == choice.option.gpus and wanted and self._sites.allow(bundle, chosen, ()):
                for device in chosen:
                    loading = self._loading(device)
                    loading.put(choice)
                    self._open(loading)
                self._spanning.append((choice, chosen))
                self._count(choice, chosen)
                return True
        return False

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
        self._before.setdefault(loading.device.id, tuple(loading.placed))
        for choice in bundle:
            loading.put(choice)
            self._count(choice, (loading.device,))

    def _count(self, choice: Choice, devices: tuple[Device, ...], sign: int = 1) -> None:
        """A replica more, or one less."""
        (self._sites.put if sign > 0 else self._sites.take)(choice, devices)
        self._served[choice.option.model] += sign * choice.capacity_mrps
        self._counts[choice.option.model] += sign

    def _open(self, loading: Loading) -> None:
        """A device comes into use."""
        self._by_device[loading.device.id] = loading
        self._opened[loading.kind.name].append(loading)
        self._empty[loading.kind.name].pop(loading.device.id, None)
        self._slicing.use(loading.device)

    def _close(self, device: Device) -> None:
        self._opened[device.kind].remove(self._by_device.pop(device.id))
        self._empty[device.kind][device.id] = device
        self._slicing.leave(device)
        self._candidates = {}

    def _refill(self, device: Device, content: Sequence[Choice]) -> None:
        """Put this on a device instead of what is there, which is nothing over several GPUs."""
        loading = self._by_device.get(device.id)
        if loading is not None:
            self._before.setdefault(device.id, tuple(loading.placed))
            for choice in loading.placed:
                self._count(choice, (device,), -1)
            self._close(device)
        if content:
            loading = self._loading(device)
            self._open(loading)
            self._put(tuple(content), loading)

    def _drop(self, models: set[str]) -> None:
        for choice, devices in [one for one in self._spanning if one[0].option.model in models]:
            self._spanning.remove((choice, devices))
            self._count(choice, devices, -1)
            for device in devices:
                self._close(device)
        for loading in list(self._all_opened()):
            kept = [choice for choice in loading.placed if choice.option.model not in models]
            if len(kept) < len(loading.placed):
                self._refill(loading.device, kept)

    def _all_opened(self) -> Iterator[Loading]:
        return chain.from_iterable(self._opened.values())

    def _loading(self, device: Device) -> Loading:
        problem = self._problem
        return Loading(device, problem.kind_by_name[device.kind], problem.max_per_device, len(problem.periods))
