"""The table of removals is what it says, and the harness tells what is noticed from what is not."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.protections.checkout import ROOT, copy_checkout
from tests.protections.command import NAMES, find_failures
from tests.protections.removal import Edit, Input, Removal, apply
from tests.protections.removals import REMOVALS
from tests.protections.trial import Guards, Verdict, try_removal

#: Copies, builds and other pytests, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)

#: One whose tests take no time, and need nothing.
CHEAP = NAMES["slots-rest"]


def test_what_is_taken_away_is_there_once() -> None:
    counts = {
        (removal.name, edit): (ROOT / edit.file).read_text().count(edit.old)
        for removal in REMOVALS
        for edit in removal.edits
    }
    assert {where: count for where, count in counts.items() if count != 1} == {}
    assert [one.name for one in REMOVALS if any(edit.old == edit.new for edit in one.edits)] == []


def test_the_tests_that_must_notice_are_there() -> None:
    parts = {test: test.partition("[")[0].split("::") for removal in REMOVALS for test in removal.tests}
    assert [t for t, (file, name) in parts.items() if f"def {name}(" not in (ROOT / file).read_text()] == []
    assert [removal.name for removal in REMOVALS if not removal.tests] == []


def test_each_has_a_name_of_its_own_and_says_what_it_stops() -> None:
    assert [name for name, count in Counter(one.name for one in REMOVALS).items() if count > 1] == []
    assert [one.name for one in REMOVALS if not one.stops.endswith(".")] == []


@pytest.mark.parametrize("input", Input)
def test_every_class_of_inputs_has_some(input: Input) -> None:
    assert sum(removal.input is input for removal in REMOVALS) > 4


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("original")
    copy_checkout(copy)
    return copy


def test_a_removal_is_noticed_as_the_command_says() -> None:
    """The whole way, from the command line to a test in a private host."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.protections", "--json", "--only", CHEAP.name],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'node'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done
    outcome = json.loads(done.stdout)
    assert (outcome["name"], outcome["verdict"]) == (CHEAP.name, "noticed")
    assert outcome["test"] in CHEAP.tests


def test_a_removal_of_nothing_is_not_noticed(original: Path, tmp_path: Path) -> None:
    [edit] = CHEAP.edits
    nothing = dataclasses.replace(CHEAP, edits=(dataclasses.replace(edit, new=f"{edit.old}\n"),))
    assert try_removal(nothing, original, tmp_path, Guards()).verdict is Verdict.NOT_NOTICED
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit("node/tfnz_node/core/slots.py", "class Slots:", "class Other:"), "pytest ended with 4"),
        (Edit("node/tfnz_node/core/slots.py", "no such text", ""), "0 times"),
        (Edit("node/init/jobs.c", "unsigned top;", "unsigned top"), "error"),
    ],
)
def test_what_does_not_run_has_not_been_noticed(
    original: Path, tmp_path: Path, edit: Edit, words: str
) -> None:
    outcome = try_removal(dataclasses.replace(CHEAP, edits=(edit,)), original, tmp_path, Guards())
    assert outcome.verdict is Verdict.BROKEN
    assert words in outcome.message


def test_a_test_that_is_not_there_is_no_failure(original: Path, tmp_path: Path) -> None:
    outcome = try_removal(
        dataclasses.replace(CHEAP, tests=("tests/none.py::test_none",)), original, tmp_path, Guards()
    )
    assert outcome.verdict is Verdict.BROKEN
    assert "pytest ended with 4" in outcome.message


def test_tests_run_the_code_of_the_copy_alone(original: Path, tmp_path: Path) -> None:
    """Whoever would have the checkout's own code, by whichever way, finds none."""
    (original / "tests/test_places.py").write_text(
        "import os, subprocess, sys\n"
        "import tfnz, tfnz_node\n"
        "def find(**environment):\n"
        "    words = [sys.executable, '-c', 'import tfnz, tfnz_node; print(tfnz.__file__, tfnz_node.__file__)']\n"
        "    return subprocess.run(words, cwd='/', env=environment, capture_output=True, text=True).stdout\n"
        "def test_place():\n"
        f"    mine = '{original}/tfnz/__init__.py {original}/node/tfnz_node/__init__.py'\n"
        "    assert f'{tfnz.__file__} {tfnz_node.__file__}' == mine\n"
        "    assert find(**os.environ).strip() == mine\n"
        "    assert find().strip() == ''\n"
    )
    assert find_failures(("tests/test_places.py::test_place",), original, tmp_path, Guards(), 1) == []


def test_what_is_left_of_a_test_is_ended(original: Path, tmp_path: Path) -> None:
    """Also what has left its process group and its session: whoever writes to the pipe has ended."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    (original / "tests/test_left.py").write_text(
        "import subprocess\n"
        "def test_left():\n"
        f"    with open('{pipe}', 'w') as pipe:\n"
        "        pipe.write('begun')\n"
        "        subprocess.run(['setsid', '--fork', 'sleep', '1000'], stdout=pipe, check=True)\n"
    )
    try:
        assert find_failures(("tests/test_left.py::test_left",), original, tmp_path, Guards(), 1) == []
        assert os.read(reader, 100) == b"begun"
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


def test_who_could_not_begin_has_noticed_nothing(original: Path, tmp_path: Path) -> None:
    (original / "tests/test_setup.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def missing():\n"
        "    raise OSError('none')\n"
        "def test_it(missing):\n"
        "    pass\n"
    )
    removal = dataclasses.replace(CHEAP, tests=("tests/test_setup.py::test_it",))
    outcome = try_removal(removal, original, tmp_path, Guards())
    assert (outcome.verdict, outcome.test) == (Verdict.BROKEN, "tests/test_setup.py::test_it")
    assert "OSError: none" in outcome.message


def test_what_hangs_after_a_failure_is_not_waited_for(original: Path, tmp_path: Path) -> None:
    (original / "tests/test_hangs.py").write_text(
        "import signal, pytest\n"
        "@pytest.fixture\n"
        "def deaf():\n"
        "    yield\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "    while True: signal.pause()\n"
        "def test_it(deaf):\n"
        "    assert False\n"
    )
    removal = dataclasses.replace(CHEAP, tests=("tests/test_hangs.py::test_it",))
    assert try_removal(removal, original, tmp_path, Guards()).verdict is Verdict.NOTICED


def test_a_text_that_is_there_twice_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one one")
    removal = Removal("none", Input.KILLS, "Nothing.", (Edit("file", "one", "two"),), ())
    with pytest.raises(ValueError, match="2 times 'one'; once is meant"):
        apply(removal, tmp_path)
    assert (tmp_path / "file").read_text() == "one one"
