"""Which kind of thing to make ready next, when what is asked for next is likely to be what was asked for lately."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Demand(Generic[K]):
    """What was asked for lately.

    Args:
        memory: so many requests are remembered.
    """

    def __init__(self, memory: int) -> None:
        self._recent: deque[K] = deque(maxlen=memory)

    def note(self, kind: K) -> None:
        """Somebody has asked for one of this kind."""
        self._recent.append(kind)

    def forget(self, unwanted: Callable[[K], bool]) -> None:
        """Nobody can ask for these any more."""
        kept = [kind for kind in self._recent if not unwanted(kind)]
        self._recent.clear()
        self._recent.extend(kept)

    def __contains__(self, kind: K) -> bool:
        return kind in self._recent

    def choose(self, ready: Iterable[K]) -> K | None:
        """The kind of which there should be one more: that which `ready` has least of, for its part of the requests.

        None when nothing was asked for. Of kinds that are equally wanted the latest wins.
        """
        if not self._recent:
            return None
        wanted, have = Counter(reversed(self._recent)), Counter(ready)
        share = (sum(have[kind] for kind in wanted) + 1) / len(self._recent)
        return max(wanted, key=lambda kind: wanted[kind] * share - have[kind])
