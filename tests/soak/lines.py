"""Numbered lines that a process prints, each to be heard once and in order; pure."""

from __future__ import annotations

import re
from typing import Final

END: Final = "end"
_LINE: Final = re.compile(r"#([0-9]+|end)")


class Lines:
    """What was heard of a process that prints ``#0``, ``#1`` and so on, and ``#end`` as the last line.

    A main process that is rebooted begins anew, with ``#0``; what it had said last may be cut off.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._next = 0
        self._restarts = 0
        #: Whether the last line was heard.
        self.finished = False

    @property
    def heard(self) -> int:
        """How many lines of the process as it runs now."""
        return self._next

    def allow_restart(self) -> None:
        """It may begin anew once more than it has."""
        self._restarts += 1

    def feed(self, data: str) -> list[str]:
        """What is wrong with what was heard now."""
        *lines, self._rest = (self._rest + data.replace("\r", "")).split("\n")
        return [text for line in lines if (text := self._take(line)) is not None]

    def missing(self) -> str | None:
        """What has not been heard of a process that has printed everything."""
        if self._rest:
            return f"the last line was cut off: {self._rest[:80]!r}"
        return None if self.finished else f"line #{self._next} and what comes after it were lost"

    def _take(self, line: str) -> str | None:
        begins_anew = line.endswith("#0") and (self._next > 0 or line != "#0")
        if begins_anew and self._restarts:
            self._restarts -= 1
            self._next, self.finished = 1, False
            return None
        match = _LINE.fullmatch(line)
        if match is None:
            return f"expected line #{self._next}, heard {line[:80]!r}"
        if self.finished:
            return f"heard {line} after the last line"
        if match[1] == END:
            self.finished = True
            return None
        number = int(match[1])
        expected, self._next = self._next, number + 1
        if number == expected:
            return None
        lost = (
            f"lines #{expected} to #{number - 1} were lost"
            if number > expected
            else f"line {line} was doubled"
        )
        return f"expected line #{expected}, heard {line}: {lost}"
