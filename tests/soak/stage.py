"""What all who take part share: the model, the clock, the counts, and the gate at which they rest."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.soak.gate import Gate
from tests.soak.host import read_kernel_log
from tests.soak.model import End, Life, Model
from tests.soak.restarts import Outcome, Restarts


class Stage:
    """Everything of one run that threads have in common. The model is only touched within `holding`.

    Attributes:
        outcomes: how many calls of each kind had which outcome.
        hits: how often each kind of disturbance was done.
        gaps_s: how long nobody was served, for each restart.
        killed: whether a client was killed since the last rest.
    """

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.gate = Gate()
        self.restarts = Restarts()
        self.outcomes: Counter[tuple[str, Outcome]] = Counter()
        self.hits: Counter[str] = Counter()
        self.gaps_s: list[float] = []
        self.operations = 0
        self.killed = False
        self.over = threading.Event()
        self._model = Model(self.now, read_kernel_log)
        self._changed = threading.Condition(threading.RLock())

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.begun

    @contextmanager
    def holding(self) -> Iterator[Model]:
        """The model, for this thread alone; who waits for something of it looks again afterwards."""
        with self._changed:
            yield self._model
            self._changed.notify_all()

    def wait(self, condition: Callable[[Model], bool], timeout_s: float) -> bool:
        """Whether the model came to be so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._model), timeout_s)

    def violate(self, about: Life | str, what: str) -> None:
        with self.holding() as model:
            model.violate(about, what)

    def violate_for_each(self, about: str, faults: list[str]) -> None:
        for fault in faults:
            self.violate(about, fault)

    def count(self, operation: str, outcome: Outcome) -> None:
        """A call has been made."""
        with self._changed:
            self.outcomes[operation, outcome] += 1
            self.operations += 1
            self._changed.notify_all()

    def finish(self) -> None:
        """Nobody begins anything more."""
        self.over.set()
        with self._changed:
            self._changed.notify_all()

    # --- what clients hear

    def hear_output(self, name: str, data: str) -> None:
        with self.holding() as model:
            model.hear_output(name, data)

    def hear_end(self, name: str, end: End, code: int) -> None:
        with self.holding() as model:
            model.hear_end(name, end, code)
