"""Where tfnz-init is looked for."""

import sys
from pathlib import Path

import pytest

from tfnz.protocol.errors import InvalidArgument
from tfnz_node import init_binary
from tfnz_node.init_binary import CANDIDATES, find_init


def make_program(path: Path) -> Path:
    path.touch()
    path.chmod(0o755)
    return path


def test_what_is_configured_is_the_only_place(tmp_path: Path) -> None:
    assert find_init(str(make_program(tmp_path / "mine"))) == tmp_path / "mine"
    with pytest.raises(InvalidArgument, match="tfnz-init is not at /absent/tfnz-init: build it with"):
        find_init("/absent/tfnz-init")


def test_what_cannot_be_executed_is_not_it(tmp_path: Path) -> None:
    (tmp_path / "mine").touch(mode=0o644)
    with pytest.raises(InvalidArgument):
        find_init(str(tmp_path / "mine"))


def test_in_a_checkout_it_is_beside_the_package() -> None:
    assert CANDIDATES[0] == Path(init_binary.__file__).parents[1] / "init" / "build" / "tfnz-init"


def test_that_of_the_daemons_own_environment_comes_before_the_systems() -> None:
    assert CANDIDATES[1] == Path(sys.prefix) / "libexec" / "20ft" / "tfnz-init"
    assert all(str(path).startswith("/usr/") for path in CANDIDATES[2:])


@pytest.mark.parametrize(("there", "found"), [([0, 1], 0), ([1], 1)])
def test_the_first_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[int], found: int
) -> None:
    places = (tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(init_binary, "CANDIDATES", places)
    for index in there:
        make_program(places[index])
    assert find_init() == places[found]


def test_every_place_that_was_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init_binary, "CANDIDATES", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(InvalidArgument, match=rf"not at {tmp_path}/a, {tmp_path}/b: build it"):
        find_init()
