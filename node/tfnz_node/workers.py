"""Threads for what blocks, all of them there from the start: a host may have none left when one is needed.

An executor of the standard library starts a thread when there is work. If it cannot, whoever brought the work hears of
it, and yet the work stays in the queue, and is done later, for nobody.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor


def open_workers(count: int, name: str) -> ThreadPoolExecutor:
    """An executor with `count` threads, which run.

    Raises:
        RuntimeError: the host has not so many.
    """
    executor = ThreadPoolExecutor(count, thread_name_prefix=name)
    met = threading.Barrier(count)
    try:
        for meeting in [executor.submit(met.wait) for _ in range(count)]:
            meeting.result()
    except BaseException:
        met.abort()
        executor.shutdown()
        raise
    return executor
