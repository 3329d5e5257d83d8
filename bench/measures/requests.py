"""The times of single requests, each in both rhythms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bench.contender import Box, Contender
from bench.measures.rhythm import measure_rhythms
from bench.measures.trials import Asking, Ending, Spawning, Trial
from bench.outcome import Outcome
from bench.plan import Plan


def _ask(
    ask: Callable[[Box], None], prepare: Callable[[Box], None] = lambda _: None
) -> Callable[[Contender], Trial]:
    return lambda contender: Asking(contender, ask, prepare)


_TRIALS: Final[dict[str, Callable[[Contender], Trial]]] = {
    "spawn": lambda contender: Spawning(contender.spawn),
    "spawn_first_byte": lambda contender: Spawning(contender.spawn_first_byte),
    "exec": _ask(lambda box: box.run_true()),
    "put_4k": _ask(lambda box: box.put_small()),
    "fetch_4k": _ask(lambda box: box.fetch_small(), lambda box: box.put_small()),
    "reboot": _ask(lambda box: box.reboot()),
    "reboot_reset": _ask(lambda box: box.reboot_reset()),
    "exit_callback": Ending,
}


def _measure(name: str) -> Callable[[Plan], Iterator[Outcome]]:
    return lambda plan: measure_rhythms(name, plan, _TRIALS[name])


MEASURES: Final = {name: _measure(name) for name in _TRIALS}
