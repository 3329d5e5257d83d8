"""Runs tests in a copy of the checkout, and tells which of them failed and how."""

from __future__ import annotations

import enum
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.protections.checkout import ROOT, CannotBuild, copied, rebuild
from tests.protections.contained import make_environment
from tests.protections.removal import Removal, apply

#: Of pytest: all passed; some failed.
PASSED: Final = 0
FAILED: Final = 1
#: For all tests of one removal, whatever is still running then.
TRIAL_TIMEOUT_S: Final = 1200.0
#: How long the processes of tests may take to end.
END_TIMEOUT_S: Final = 60.0
#: What is said before the test itself has begun, and when it was imported.
NOT_THE_TEST: Final = ("failed on setup", "collection failure")
#: So many characters of what a test had to say.
MESSAGE: Final = 300
#: Where our code is. In the namespace of tests nothing is there: who would run it and not the copy's finds none.
CODE: Final = ("tfnz", "tfnz_command", "node", "tests")
HIDE: Final = (
    'nothing=$1; shift; while [ "$1" != -- ]; do mount --bind "$nothing" "$1"; shift; done; shift; exec "$@"'
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


def try_removal(removal: Removal, original: Path, scratch: Path) -> Outcome:
    """Take a protection away in a copy of `original`, and run the tests that must notice."""
    try:
        with copied(original, scratch / "copy") as copy:
            apply(removal, copy)
            rebuild(copy, removal.edits)
            failures = run_tests(removal.tests, copy, scratch)
    except (CannotBuild, CannotRun, ValueError) as exc:
        return Outcome(removal, Verdict.BROKEN, message=str(exc))
    return judge(removal, failures)


def judge(removal: Removal, failures: list[Failure]) -> Outcome:
    """What the failures mean: a test that could not begin has noticed nothing."""
    if not failures:
        return Outcome(removal, Verdict.NOT_NOTICED)
    own = [failure for failure in failures if failure.is_own]
    first = (own or failures)[0]
    return Outcome(removal, Verdict.NOTICED if own else Verdict.BROKEN, first.test, first.message)


def run_tests(
    tests: tuple[str, ...], copy: Path, scratch: Path, *, all_of_them: bool = False
) -> list[Failure]:
    """Those that fail in a copy: the first, or all of them.

    Raises:
        CannotRun: pytest has come to no result.
    """
    report = scratch / "report.xml"
    report.unlink(missing_ok=True)
    nothing = scratch / "nothing"
    nothing.mkdir(exist_ok=True)
    pytest = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"),
        *(f"--basetemp={scratch / 't'}", f"--junit-xml={report}"),
        *([] if all_of_them else ["-x"]),
        *tests,
    ]
    hidden = [str(ROOT / name) for name in CODE]
    host = [str(copy / "scripts/private-host"), "sh", "-c", HIDE, "sh", str(nothing), *hidden, "--", *pytest]
    with (scratch / "said").open("w+") as said:
        guard = subprocess.Popen(
            [sys.executable, "-m", "tests.protections.contained", str(copy), *host],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=make_environment(ROOT),
        )
        try:
            code = guard.wait(TRIAL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise CannotRun(f"the tests did not end within {TRIAL_TIMEOUT_S:.0f} s") from None
        finally:
            end(guard)
        said.seek(0)
        words = said.read()
    if code == PASSED:
        return []
    failures = parse_report(report) if code == FAILED and report.exists() else []
    if not failures:
        raise CannotRun(f"pytest ended with {code}: {words[-2000:]}")
    return failures


def end(guard: subprocess.Popen[bytes]) -> None:
    """Have it end what it has started, if it still runs."""
    if guard.poll() is None:
        guard.send_signal(signal.SIGTERM)
        guard.wait(END_TIMEOUT_S)


def parse_report(report: Path) -> list[Failure]:
    """The failures in what pytest has written."""
    failures = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for said in (*case.findall("failure"), *case.findall("error")):
            message = said.get("message") or ""
            is_own = not message.startswith(NOT_THE_TEST)
            test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            failures.append(Failure(test, message[:MESSAGE], is_own))
    return failures
