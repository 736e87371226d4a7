"""Load that counts only where the server stood by it to the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from planner.domain.serving import LoadGenerator, LoadMode, LoadResult, LoadSpec, Server
from planner.errors import LoadError, ServerError, TritonExited
from profiler.load.answers import check_answer
from profiler.server.kernel_kills import KernelKills


class StrictLoadGenerator:
    """Another generator, whose windows fail with ServerError where the server lost a process of the model, answered
    with errors, or stopped to answer. Only an open loop may leave requests unanswered: then it is overloaded.

    Before the first load, a model must answer one request within `deadline_s` as its configuration says.
    """

    def __init__(self, inner: LoadGenerator, *, deadline_s: float) -> None:
        self.name = inner.name
        self._inner = inner
        self._deadline_s = deadline_s
        self._server: Server | None = None
        self._answered: set[str] = set()
        self._kills = KernelKills()

    def run(self, server: Server, specs: Sequence[LoadSpec]) -> list[LoadResult]:
        """See LoadGenerator; also InputError where a model's inputs cannot be made up."""
        if self._server is not server:
            # from the server's first load on: a process that the kernel kills after one may be gone only in the next
            self._server, self._answered, self._kills = server, set(), KernelKills()
        processes, kills = _model_processes(server), self._kills
        try:
            self._check_answers(server, specs)
            results = self._inner.run(server, specs)
        except TritonExited:
            raise
        except (ServerError, LoadError) as error:
            _raise_if_lost(processes, server, kills, error.message)
            error.message += kills.words()
            raise
        errors = [result.first_error for result in results if result.first_error is not None]
        _raise_if_lost(processes, server, kills, errors[0] if errors else "the generator noticed nothing")
        for spec, result in zip(specs, results, strict=True):
            if (cause := _cause(spec, result)) is not None:
                raise ServerError(f"{spec.model!r} {cause}{kills.words()}", log_tail=server.log_tail())
        return results

    def _check_answers(self, server: Server, specs: Sequence[LoadSpec]) -> None:
        if server.pid is None:
            return
        for spec in specs:
            if spec.model not in self._answered:
                try:
                    check_answer(server, spec, self._deadline_s)
                except ServerError as error:
                    server.raise_if_ended()
                    error.log_tail = server.log_tail()
                    raise
                self._answered.add(spec.model)


def _cause(spec: LoadSpec, result: LoadResult) -> str | None:
    """Why a window is worth nothing; None where it is worth something."""
    if result.first_refusal is not None:
        counted = f"{result.failed} of {result.offered} requests" if result.failed else "requests before the window"
        return f"failed {counted}: {result.first_refusal}"
    if not result.failed:
        return None
    last_s = max((sent + latency for sent, latency in zip(result.sent_s, result.latency_s, strict=True)), default=0.0)
    if spec.mode is LoadMode.CLOSED or last_s < result.seconds:
        return f"stopped to answer after {last_s:.1f} of {result.seconds:g} s: {result.first_error}"
    return None


def _model_processes(server: Server) -> set[tuple[int, float]]:
    """The processes that Triton itself started, one per instance of a Python model; empty for a remote server."""
    import psutil

    if server.pid is None:
        return set()
    try:
        children = psutil.Process(server.pid).children()
    except psutil.NoSuchProcess:
        return set()
    found = set()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add((child.pid, child.create_time()))
    return found


def _raise_if_lost(before: set[tuple[int, float]], server: Server, kills: KernelKills, seen: str) -> None:
    server.raise_if_ended()
    if before - _model_processes(server):
        text = f"a process of the model ended under load: {seen}{kills.words()}"
        raise TritonExited(text, log_tail=server.log_tail())
