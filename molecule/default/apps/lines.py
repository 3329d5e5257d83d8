"""Containers that print numbered lines while the daemon beneath them is replaced: none may be lost, or come twice.

lines.py RECORD    run until SIGUSR1, and then for some lines more of each; the record has first `begun`, and at last
                   `ok` with how many there were, or what was wrong
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from tfnz import Container, Location

CONTAINERS, MORE = 10, 20
PRINT = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done"


class Lines:
    """What a container has printed: each number once, in order."""

    def __init__(self, record: Path) -> None:
        self.count = 0
        self.arrived = threading.Condition()
        self._record, self._rest = record, b""

    def take(self, container: Container, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line != str(self.count).encode():
                end(self._record, f"{container.uuid}: {line.decode()} and not {self.count}", 1)
            with self.arrived:
                self.count += 1
                self.arrived.notify()

    def wait_for(self, count: int) -> None:
        with self.arrived:
            self.arrived.wait_for(lambda: self.count >= count)


def end(record: Path, said: str, code: int) -> None:
    """Ends the program, from whichever thread."""
    note(record, said)
    os._exit(code)


def note(record: Path, said: str) -> None:
    with record.open("a") as file:
        file.write(f"{said}\n")


def main() -> None:
    record = Path(sys.argv[1])
    replaced = threading.Event()
    signal.signal(signal.SIGUSR1, lambda _number, _frame: replaced.set())
    with Location() as location:
        all_lines = [Lines(record) for _ in range(CONTAINERS)]
        for lines in all_lines:
            location.node().spawn(
                "busybox",
                PRINT,
                stdout_callback=lines.take,
                termination_callback=lambda container, code: end(
                    record, f"{container.uuid} has ended with {code}", 1
                ),
            )
        for lines in all_lines:
            lines.wait_for(1)
        note(record, "begun")
        replaced.wait()
        for lines in all_lines:
            lines.wait_for(lines.count + MORE)
        end(record, f"ok: {sum(lines.count for lines in all_lines)} lines", 0)


main()
