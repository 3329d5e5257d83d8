"""Programs of peers that are not there, or fail."""

from __future__ import annotations

import pytest

from bench.contender import ContenderFailed
from bench.peers.programs import find_program, run, start_detached, start_reading


def test_a_program_that_is_missing_is_named_with_its_package() -> None:
    with pytest.raises(ContenderFailed, match=r"no no-such-program: install Debian's its-package"):
        find_program("no-such-program", "its-package")


def test_what_a_program_prints_is_returned() -> None:
    assert run(["cat"], input=b"words") == b"words"


@pytest.mark.parametrize("start", [run, start_detached])
def test_a_failure_tells_what_was_said(start: object) -> None:
    assert callable(start)
    with pytest.raises(ContenderFailed, match="ended with 3: it is broken"):
        start(["sh", "-c", "echo it is broken >&2; exit 3"])


def test_the_first_byte_is_read_and_the_rest_is_not_lost() -> None:
    process = start_reading(["sh", "-c", "echo hello"])
    assert process.communicate()[0] == b"ello\n"


def test_no_output_is_a_failure() -> None:
    with pytest.raises(ContenderFailed, match="ended with 4: no output"):
        start_reading(["sh", "-c", "exit 4"])
