"""A program of somebody else on the node, with a container that does its worst.

python -m bench.neighbour SOCKET KIND

It says `ready` when the container is at it. When its standard input ends it destroys the container, and says how many
seconds that took.
"""

from __future__ import annotations

import sys
import time
from typing import Final

from tfnz import Location

#: What runs in the container beside its main process, by name.
KINDS: Final = {
    "nobody": (),
    "forks": ("bomb() { bomb | bomb & }; bomb",),
    "memory": ("while :; do dd if=/dev/zero of=/dev/null bs=1G count=1; done",),
    "processors": ("while :; do :; done",) * 4,
    "disk": ("while :; do dd if=/dev/urandom of=/fill bs=1M count=512; done",),
    "output": ("yes",),
    "processes": ("while :; do /bin/true; done",) * 2,
}
#: Until what it does has begun to be felt.
PACE_S: Final = 1.0


def main() -> None:
    socket, kind = sys.argv[1:]
    with Location(socket=socket, quiet=True) as location:
        container = location.node().spawn("busybox", ["sleep", "100000"]).wait_until_ready()
        for program in KINDS[kind]:
            container.spawn(["sh", "-c", program], data_callback=lambda _process, _data: None)
        time.sleep(PACE_S)
        print("ready", flush=True)
        sys.stdin.read()
        started = time.perf_counter()
        container.destroy()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
