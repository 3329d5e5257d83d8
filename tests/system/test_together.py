"""What fails among things that are done together has a name."""

from __future__ import annotations

import pytest

from tests.system.together import Ready, together


def wait_in_vain(ready: Ready) -> None:
    ready()
    raise AssertionError("it went on, although not all were ready")


def fail(ready: Ready) -> None:
    raise ValueError("no")


def fail_later(ready: Ready) -> None:
    ready()
    raise ValueError("no")


def do_well(ready: Ready) -> int:
    ready()
    return 7


def test_all_are_there_at_the_same_time() -> None:
    assert together({"one": do_well, "other": do_well}) == {"one": 7, "other": 7}


def test_who_fails_is_named_and_nobody_else() -> None:
    with pytest.raises(ExceptionGroup, match="went wrong: the second, the third$") as caught:
        together({"the first": do_well, "the second": fail_later, "the third": fail_later})
    assert [error.__notes__ for error in caught.value.exceptions] == [
        ["It is about: the second"],
        ["It is about: the third"],
    ]


def test_when_one_is_not_ready_nobody_begins() -> None:
    with pytest.raises(ExceptionGroup, match="went wrong: the first$"):
        together({"the first": fail, "the second": wait_in_vain})
