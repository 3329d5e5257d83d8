"""Clients that are to be killed: forked from a program that has imported everything, so that there may be many.

    python -m tests.soak.doomed SOCKET CONTAINERS

For each line of input it begins one, and says its process id when its containers run. It waits for those that are dead.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from tfnz import Location


def live(socket: str, containers: int) -> None:
    """Have some of everything, and wait to be killed."""
    location = Location(socket=socket, quiet=True)
    node = location.node()
    boxes = [
        node.spawn("busybox", ["sleep", "1000"], sleep=number % 2 == 1, pre_boot_files={"/file": b"x" * 1000})
        for number in range(containers)
    ]
    for box in boxes:
        box.wait_until_ready()
    boxes[0].spawn("yes >/dev/null")
    boxes[0].put("/data", bytes(100_000))
    if containers > 1:
        boxes[0].allow_connection_from(boxes[1])
    os.write(1, f"{os.getpid()}\n".encode())
    threading.Event().wait()


def main() -> None:
    socket, containers = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    while os.read(0, 1):
        if os.fork() == 0:
            live(socket, containers)


if __name__ == "__main__":
    main()
