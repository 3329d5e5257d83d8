"""Runs tests in a copy of the checkout, and tells which of them failed and how."""

from __future__ import annotations

import enum
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from tests.protections.checkout import ROOT, CannotBuild, copied, rebuild
from tests.protections.contained import make_environment
from tests.protections.removal import Removal, apply

#: Of pytest: all passed; some failed.
PASSED: Final = 0
FAILED: Final = 1
#: For the tests of one removal, whatever is still running then.
TRIAL_TIMEOUT_S: Final = 1200.0
#: How long the processes of tests may take to end.
END_TIMEOUT_S: Final = 60.0
#: So many characters of what a test had to say.
MESSAGE: Final = 300
#: Where our code is. In the namespace of tests nothing is there: who would run it and not the copy's finds none. The
#: host's shared memory is another one's as well, on which nothing is left that should not have been written there.
CODE: Final = ("tfnz", "tfnz_command", "node", "tests")
HIDE: Final = (
    "mount -t tmpfs shm /dev/shm; nothing=$1; shift; "
    'while [ "$1" != -- ]; do mount --bind "$nothing" "$1"; shift; done; shift; exec "$@"'
)


class CannotRun(Exception):
    """The tests did not come to a result; the message says what pytest said."""


@dataclass(frozen=True)
class Failure:
    """A test that has failed, and what it said."""

    test: str
    message: str
    #: It failed by itself, and not because there was nothing to try it with.
    is_own: bool


class Verdict(enum.StrEnum):
    """What came of a removal."""

    NOTICED = "noticed"
    NOT_NOTICED = "NOT NOTICED"
    #: Tests fail with the protection in its place, or could not be run: nothing is known.
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Outcome:
    """What came of a removal: who has noticed it first, and what that test said; or why nothing is known."""

    removal: Removal
    verdict: Verdict
    test: str = ""
    message: str = ""
    seconds: float = 0.0


class Guards:
    """Who run tests, from whichever thread. All of them can be ended, and then no more begin."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(self, copy: Path, words: list[str], said: IO[str], timeout_s: float | None) -> int:
        """The exit code of a command in a copy; nothing that it has begun is left then.

        Raises:
            CannotRun: it did not end in time, or nothing is to be run any more.
        """
        with self._lock:
            if self._ended:
                raise CannotRun("nothing is run any more")
            guard = subprocess.Popen(
                [sys.executable, "-m", "tests.protections.contained", str(copy), *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=make_environment(ROOT),
            )
            self._running.add(guard)
        try:
            return guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise CannotRun(f"the tests did not end within {timeout_s} s") from None
        finally:
            end(guard)
            with self._lock:
                self._running.discard(guard)

    def end_all(self) -> None:
        """Have nothing run any more."""
        with self._lock:
            self._ended = True
            for guard in self._running:
                guard.send_signal(signal.SIGTERM)


def end(guard: subprocess.Popen[bytes]) -> None:
    """Have it end what it has started, if it still runs."""
    if guard.poll() is None:
        guard.send_signal(signal.SIGTERM)
        guard.wait(END_TIMEOUT_S)


def try_removal(removal: Removal, original: Path, scratch: Path, guards: Guards) -> Outcome:
    """Take a protection away in a copy of `original`, and run the tests that must notice, until one fails."""
    begun = time.monotonic()
    try:
        with copied(original, scratch / "copy") as copy:
            apply(removal, copy)
            rebuild(copy, removal.edits)
            words = ("-n", "0", "--end-at-first", *removal.tests)
            failures = run_tests(copy, scratch, words, guards, timeout_s=TRIAL_TIMEOUT_S)
        outcome = judge(removal, failures)
    except (CannotBuild, CannotRun, ValueError) as exc:
        outcome = Outcome(removal, Verdict.BROKEN, message=str(exc))
    return replace(outcome, seconds=time.monotonic() - begun)


def judge(removal: Removal, failures: list[Failure]) -> Outcome:
    """What the failures mean: a test that could not begin has noticed nothing."""
    if not failures:
        return Outcome(removal, Verdict.NOT_NOTICED)
    own = [failure for failure in failures if failure.is_own]
    first = (own or failures)[0]
    return Outcome(removal, Verdict.NOTICED if own else Verdict.BROKEN, first.test, first.message)


def run_tests(
    copy: Path, scratch: Path, words: Iterable[str], guards: Guards, *, timeout_s: float | None = None
) -> list[Failure]:
    """Which tests of a copy fail, of those that pytest is told by `words`.

    Raises:
        CannotRun: it has come to no result.
    """
    report, nothing = scratch / "failures", scratch / "nothing"
    report.write_text("")
    nothing.mkdir(exist_ok=True)
    hidden = [str(ROOT / name) for name in CODE]
    host = [str(copy / "scripts/private-host"), "sh", "-c", HIDE, "sh", str(nothing), *hidden, "--"]
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.protections.witness",
    ]
    files = [f"--basetemp={scratch / 't'}", f"--failures-to={report}"]
    with (scratch / "said").open("w+") as said:
        code = guards.run(copy, [*host, *pytest, *files, *words], said, timeout_s)
        said.seek(0)
        heard = said.read()
    if code == PASSED:
        return []
    failures = parse_report(report.read_text()) if code == FAILED else []
    if not failures:
        raise CannotRun(f"pytest ended with {code}: {heard[-2000:]}")
    return failures


def parse_report(text: str) -> list[Failure]:
    """The failures that the witness has written. A test that could not begin has not failed by itself."""
    return [
        Failure(said["test"], said["message"][:MESSAGE], said["when"] != "setup")
        for said in map(json.loads, text.splitlines())
    ]
