"""Things that a test does at the same time: most of them wait, and one after the other they would take too long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

#: Returns when all who are together have called it.
Ready = Callable[[], None]
Found = TypeVar("Found")


def together(deeds: Mapping[str, Callable[[Ready], Found]]) -> dict[str, Found]:
    """Do all of it at once, and return what each has returned when all are done.

    Raises:
        ExceptionGroup: some failed. It names them, and each of its errors has the name of what it is about as a note.
            If one fails, or ends, before it is ready, the others do not begin.
    """
    barrier = threading.Barrier(len(deeds))

    def do(deed: Callable[[Ready], Found]) -> Found:
        arrived = False

        def ready() -> None:
            nonlocal arrived
            arrived = True
            barrier.wait()

        try:
            return deed(ready)
        finally:
            # Nobody is to wait for it any more; but those who are just let through must not be stopped.
            if not arrived:
                barrier.abort()

    with ThreadPoolExecutor(len(deeds)) as pool:
        doing = {name: pool.submit(do, deed) for name, deed in deeds.items()}
    failed = {}
    for name, one in doing.items():
        # Of those who waited in vain for one that failed there is nothing to tell.
        if isinstance(error := one.exception(), Exception) and not isinstance(
            error, threading.BrokenBarrierError
        ):
            error.add_note(f"It is about: {name}")
            failed[name] = error
    if failed:
        raise ExceptionGroup(f"went wrong: {', '.join(failed)}", list(failed.values()))
    return {name: one.result() for name, one in doing.items()}
