"""Whether a load generator that should have ended waits for a model that stopped to answer."""

from __future__ import annotations

from typing import Any, cast

from planner.domain.serving import LoadSpec, Server
from planner.errors import ServerError, TritonExited, TritonUnreachable
from profiler.load.answers import check_answer

IDLE_CPU = 0.1
IDLE_S = 2.0


class Silence:
    """Where the generator takes no CPU time to speak of, and the model has answered nothing more meanwhile, one request
    tells which of them hangs. A busy generator may be writing, and a slow model may still come to its answers.
    """

    def __init__(self, server: Server, spec: LoadSpec, deadline_s: float) -> None:
        self._server = server
        self._spec = spec
        self._deadline_s = deadline_s
        self._since: tuple[float, float] | None = None
        self._answered = -1

    def look(self, now: float, cpu_s: float) -> None:
        """At `now` the generator has used `cpu_s` of CPU time; ServerError where the model hangs.

        Of a server elsewhere nothing is known: it may be slow to reach.
        """
        if self._server.pid is None:
            return
        since, since_cpu_s = self._since or (now, cpu_s)
        if self._since is not None and now - since < IDLE_S:
            return
        is_idle = self._since is not None and cpu_s - since_cpu_s <= IDLE_CPU * (now - since)
        self._since = (now, cpu_s)
        if not self._answered_more() and is_idle:
            self._ask()

    def _ask(self) -> None:
        try:
            check_answer(self._server, self._spec, self._deadline_s)
        except TritonUnreachable as error:
            self._server.raise_if_ended()
            if not self._answered_more():
                error.log_tail = self._server.log_tail()
                raise
        except TritonExited:
            raise
        except ServerError:
            self._since = None  # it does answer

    def _answered_more(self) -> bool:
        """Since the last time; yes where that cannot be read."""
        try:
            answered = _ended(self._server.statistics(self._spec.model))
        except TritonExited:
            raise
        except TritonUnreachable:
            return False
        except ServerError:
            return True
        before, self._answered = self._answered, answered
        return answered != before


def _ended(statistics: object) -> int:
    """Requests that came to an end, well or not, over all versions."""
    versions = cast(dict[str, Any], statistics)["model_stats"]
    counts = [version.get("inference_stats", {}).get(how, {}) for version in versions for how in ("success", "fail")]
    return sum(int(count.get("count", 0)) for count in counts)
