"""A further process in a container."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, final

from . import aio
from .face import described, find_callback
from .lifetime import Lifetime
from .portal import Portal

if TYPE_CHECKING:
    from .container import Container

_REQUEST_TIMEOUT_S: Final = 60.0


@final
@described(aio.Process)
class Process(Lifetime):
    """A process that `Container.spawn` or `Container.spawn_shell` started.

    Example:
        >>> process = container.spawn("for n in 1 2 3; do echo $n; done")
        >>> b"".join(process)
        b'1\\n2\\n3\\n'
        >>> process.wait().code
        0
    """

    _core: aio.Process

    def __init__(self, core: aio.Process, portal: Portal) -> None:
        self._core = core
        self._portal = portal

    @property
    def data_callback(self) -> Callable[[Process, bytes], object] | None:
        """Called with the process and each part of its output; may be changed at any time.

        A new one is called with what has waited for want of one.
        """
        return find_callback(self._core.data_callback)

    @data_callback.setter
    def data_callback(self, callback: Callable[[Process, bytes], object] | None) -> None:
        self._core._data_callback = self._portal.adopt(callback)
        self._portal.post(self._core._hand_over)

    @property
    def stderr_callback(self) -> Callable[[Process, bytes], object] | None:
        """Called with the process and each part of its errors; without one they are thrown away."""
        return find_callback(self._core.stderr_callback)

    @stderr_callback.setter
    def stderr_callback(self, callback: Callable[[Process, bytes], object] | None) -> None:
        self._core.stderr_callback = self._portal.adopt(callback)

    @property
    def termination_callback(self) -> Callable[[Process, int], object] | None:
        """Called once with the process and its return code."""
        return find_callback(self._core.termination_callback)

    @termination_callback.setter
    def termination_callback(self, callback: Callable[[Process, int], object] | None) -> None:
        self._core.termination_callback = self._portal.adopt(callback)

    def parent(self) -> Container:
        container: Container = self._portal.face(self._core.parent())
        return container

    def stdin(self, data: bytes | str, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.stdin(data, timeout_s=timeout_s))

    def close_stdin(self) -> None:
        self._portal.post(self._core.close_stdin)

    def signal(self, number: int, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.signal(number, timeout_s=timeout_s))

    def resize(self, columns: int, rows: int, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.resize(columns, rows, timeout_s=timeout_s))

    def __iter__(self) -> Iterator[bytes]:
        """What it writes to standard output, in parts as they come, until it ends; see `tfnz.aio.Process`."""
        self._core._want_output()
        while part := self._portal.call(self._core._read_output()):
            yield part

    def destroy(self, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.destroy(timeout_s=timeout_s))
