"""Two event loops: the real one, and one whose time passes only while everybody waits. And sessions."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping

import pytest

from tests.node.gateway.fake_gateway import Gateway


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nobody: when no descriptor is ready, the time that would have been waited has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None:
            self.now += max(timeout, 0)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop for code that waits for time and for itself, and not for the world outside."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def stand_still(self, seconds: float) -> None:
        """Time passes, and nothing is done, as in a process that is stopped."""
        self._clock.now += seconds


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"real": asyncio.new_event_loop, "jumping": JumpingLoop}


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()
