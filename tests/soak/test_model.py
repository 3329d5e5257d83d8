"""The model: what may be true passes, and each thing that may not is told, with what was done before."""

from __future__ import annotations

import signal

import pytest

from tests.soak.model import DESTROYED, SESSION_OVER, End, Life, Model, exited, signalled
from tfnz.protocol.exits import Cause


@pytest.fixture
def model() -> Model:
    return Model(lambda: 12.5)


@pytest.fixture
def life(model: Model) -> Life:
    return model.begin("box", "ada", prints=True)


def told(model: Model) -> list[str]:
    return [violation.what for violation in model.violations]


def end(model: Model, life: Life, how: End) -> None:
    model.hear_end(life.name, how, how.returncode)


# --- ends


def test_an_end_that_was_predicted_is_right(model: Model, life: Life) -> None:
    model.may_end(life, exited(3))
    end(model, life, exited(3))
    model.check_ended(life)
    assert told(model) == []


@pytest.mark.parametrize("how", [exited(4), signalled(signal.SIGKILL), End(Cause.NODE_LOST), DESTROYED])
def test_another_end_is_told(model: Model, life: Life, how: End) -> None:
    model.may_end(life, exited(3))
    end(model, life, how)
    assert told(model) == [f"its end was: {how}, expected exited with code 3"]


def test_an_end_that_nobody_has_caused_is_told(model: Model, life: Life) -> None:
    end(model, life, exited(0))
    assert told(model) == ["its end was: exited with code 0, expected that it goes on"]


def test_a_doubled_callback_is_told(model: Model, life: Life) -> None:
    model.may_end(life, DESTROYED)
    end(model, life, DESTROYED)
    end(model, life, DESTROYED)
    assert told(model) == ["its end was told 2 times: destroyed, destroyed"]


def test_an_end_that_is_never_told_is_told_of(model: Model, life: Life) -> None:
    model.check_ended(life)
    assert told(model) == ["its end was never told"]


def test_a_code_that_does_not_go_with_the_end_is_told(model: Model, life: Life) -> None:
    model.may_end(life, exited(3))
    model.hear_end(life.name, exited(3), 0)
    assert told(model) == ["its callback had code 0, its end was: exited with code 3"]


def test_what_was_not_made_is_not_heard_of(model: Model, life: Life) -> None:
    model.refuse(life)
    model.check_ended(life)
    assert told(model) == []
    model.hear_output(life.name, "#0\n")
    model.may_end(life, DESTROYED)
    end(model, life, DESTROYED)
    assert told(model) == [
        "it was not made, and says '#0\\n'",
        "it was not made, and its end was told: destroyed",
    ]


def test_a_process_ends_with_its_container_and_not_before(model: Model, life: Life) -> None:
    first, second = (model.begin(name, "ada", parent=life) for name in ("first", "second"))
    end(model, first, End(Cause.CONTAINER_ENDED))
    assert told(model) == ["its end was: container ended, expected that it goes on"]
    model.may_end(life, exited(3))
    end(model, second, End(Cause.CONTAINER_ENDED))
    assert len(told(model)) == 1


def test_the_kernel_may_choose_a_process_where_its_container_may_end_for_want_of_memory(
    model: Model, life: Life
) -> None:
    first, second = (model.begin(name, "ada", parent=life) for name in ("first", "second"))
    killed = End(Cause.OUT_OF_MEMORY)
    end(model, first, killed)
    assert told(model) == ["its end was: out of memory, expected that it goes on"]
    model.may_end(life, killed)
    end(model, second, killed)
    assert len(told(model)) == 1


def test_sessions_end_all_that_they_have_until_there_is_another(model: Model, life: Life) -> None:
    model.end_sessions("ada", *SESSION_OVER)
    late = model.begin("late", "ada")
    assert model.session_ends("ada") and not model.session_ends("grace")
    model.begin_session("ada")
    new = model.begin("new", "ada")
    for one in (life, late, new):
        end(model, one, End(Cause.SESSION_GONE))
    assert [violation.about for violation in model.violations] == ["new"]


def test_a_killed_client_hears_nothing_more(model: Model, life: Life) -> None:
    other = model.begin("other", "grace")
    assert model.abandon("ada") == [life]
    model.check_ended(life)
    assert told(model) == []
    assert model.living() == [other]


# --- output


def test_a_lost_line_is_told(model: Model, life: Life) -> None:
    model.hear_output(life.name, "#0\n#2\n")
    assert told(model) == ["expected line #1, heard #2: lines #1 to #1 were lost"]


def test_a_doubled_line_is_told(model: Model, life: Life) -> None:
    model.hear_output(life.name, "#0\n#0\n")
    assert told(model) == ["expected line #1, heard #0: line #0 was doubled"]


def test_one_that_ends_by_itself_has_said_everything(model: Model, life: Life) -> None:
    model.may_end(life, exited(3), complete=True)
    model.hear_output(life.name, "#0\n")
    end(model, life, exited(3))
    assert told(model) == ["line #1 and what comes after it were lost"]


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_one_that_is_killed_may_not_have(model: Model, life: Life, order: tuple[bool, bool]) -> None:
    for complete in order:
        model.may_end(life, signalled(signal.SIGKILL), complete=complete)
    model.hear_output(life.name, "#0\n")
    end(model, life, signalled(signal.SIGKILL))
    assert told(model) == []


def test_output_after_the_end_is_told(model: Model, life: Life) -> None:
    model.may_end(life, exited(3))
    end(model, life, exited(3))
    model.hear_output(life.name, "#0\n")
    assert told(model) == ["it has ended, and says '#0\\n'"]


def test_what_its_owner_ends_may_have_been_saying_something(model: Model, life: Life) -> None:
    process = model.begin("process", "ada", parent=life, prints=True)
    model.may_end(life, DESTROYED)
    end(model, process, End(Cause.CONTAINER_ENDED))
    end(model, life, DESTROYED)
    for one in (life, process):
        model.hear_output(one.name, "#0\n")
    assert told(model) == []


# --- files and connections


def test_a_file_is_what_was_put(model: Model, life: Life) -> None:
    model.read(life, "/a", None)
    model.may_write(life, {"/a": "one"})
    model.wrote(life, {"/a": "one"})
    model.read(life, "/a", "one")
    assert told(model) == []
    model.read(life, "/a", "other")
    assert told(model) == ["/a is other, expected one"]


def test_after_an_interruption_it_is_either_until_it_was_seen(model: Model, life: Life) -> None:
    model.may_write(life, {"/a": "one"})
    assert life.files["/a"] == {None, "one"}
    model.read(life, "/a", "one")
    assert told(model) == []
    model.read(life, "/a", None)
    assert told(model) == ["/a is absent, expected one"]


def test_a_reset_brings_the_first_files_back(model: Model, life: Life) -> None:
    model.wrote(life, {"/a": "one", "/boot": "other"})
    model.may_reset(life, {"/boot": "first"})
    assert life.files == {"/a": {"one", None}, "/boot": {"other", "first"}}
    model.was_reset(life, {"/boot": "first"})
    model.read(life, "/boot", "first")
    model.read(life, "/a", "one")
    assert told(model) == ["/a is one, expected absent"]


def test_who_reaches_it_is_as_permitted(model: Model, life: Life) -> None:
    model.connected(life, False)
    assert told(model) == []
    model.connected(life, True)
    life.reachable = {True}
    model.connected(life, True)
    model.connected(life, False)
    assert told(model) == [
        "its peer reaches it without permission",
        "its peer is permitted, and cannot reach it",
    ]


# --- what is told


def test_a_violation_has_the_time_and_what_was_done_before(model: Model, life: Life) -> None:
    model.note(life, "put path='/a'")
    model.violate(life, "wrong")
    [violation] = model.violations
    assert (violation.at_s, violation.about, violation.what) == (12.5, "box", "wrong")
    assert violation.history == ("12.50 put path='/a'",)


def test_of_very_many_all_are_counted(model: Model) -> None:
    for _ in range(1000):
        model.violate("host", "wrong")
    assert model.violation_count == 1000 > len(model.violations)
