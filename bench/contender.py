"""Whoever starts containers, as the measurements see them: 20ft and its peers alike."""

from __future__ import annotations

import itertools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, NoReturn

#: What each container may use, the same everywhere; they are the defaults of 20ft.
MEMORY_BYTES: Final = 512 << 20
CPUS: Final = 1
PIDS: Final = 256
#: The small file of put_4k and fetch_4k.
SMALL: Final = bytes(range(256)) * 16

#: Of another benchmark beside this one, too.
_durations = itertools.count(1_000_000_000 + secrets.randbelow(1_000_000_000))


class NotMeasured(Exception):
    """This contender cannot do what is measured, or not in a way that could be compared."""


class ContenderFailed(Exception):
    """A contender has failed at what it can do; the message says at what, and what it had to say."""


def make_mark() -> str:
    """A duration for `sleep` that no other process has, by which it is found in /proc."""
    return str(next(_durations))


class Box(ABC):
    """A running container of a contender. Only what it overrides is measured of it."""

    #: The argument of its main process, `sleep`.
    mark: str = ""

    def run_true(self) -> None:
        """Run ``true`` in it, and know that it has ended well."""
        raise NotMeasured

    def put_small(self) -> None:
        """Write `SMALL` to /small."""
        raise NotMeasured

    def fetch_small(self) -> None:
        """Read /small, which `put_small` has written."""
        raise NotMeasured

    def put_large(self, size_bytes: int) -> None:
        """Write that much to /large, streaming."""
        raise NotMeasured

    def fetch_large(self, size_bytes: int) -> None:
        """Read /large, which `put_large` has written, streaming."""
        raise NotMeasured

    def reboot(self) -> None:
        """End its processes and start the main one again."""
        raise NotMeasured

    def reboot_reset(self) -> None:
        """The same, with the files as they were in the beginning."""
        raise NotMeasured

    def expect_end(self) -> Callable[[], float]:
        """Begin to wait for its end. What is returned waits until it is told, and says when that was."""
        raise NotMeasured

    @abstractmethod
    def destroy(self) -> None:
        """Remove all of it."""


class Contender(ABC):
    """One who starts containers of the busybox image; closed by its context manager, which the caller keeps."""

    name: str

    @abstractmethod
    def spawn(self) -> Box:
        """A container whose main process, `sleep`, is running when this returns."""

    def spawn_first_byte(self) -> Box:
        """A container that has written something, of which the first byte has arrived when this returns."""
        refuse()


def refuse() -> NoReturn:
    """This contender is not measured at this."""
    raise NotMeasured


def check_small(content: bytes) -> None:
    """That a fetched file is what was put there.

    Raises:
        ContenderFailed: it is not.
    """
    if content != SMALL:
        raise ContenderFailed(f"the file came back with {len(content)} bytes that are not those of before")
