"""Where tfnz-init is looked for."""

from pathlib import Path

import pytest

from tfnz_node import init_binary
from tfnz_node.init_binary import PLACES, find_init


def test_what_is_configured_is_taken_as_it_is() -> None:
    assert find_init("/opt/absent/tfnz-init") == Path("/opt/absent/tfnz-init")


def test_in_a_checkout_it_is_beside_the_package() -> None:
    assert PLACES[0].parent.parent == Path(init_binary.__file__).parents[1]
    assert PLACES[0].parts[-3:] == ("node", "init", "tfnz-init")


@pytest.mark.parametrize(("there", "found"), [([0, 1], 0), ([1], 1), ([], 0)])
def test_the_first_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[int], found: int
) -> None:
    places = (tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(init_binary, "PLACES", places)
    for index in there:
        places[index].touch()
    assert find_init("") == places[found]
