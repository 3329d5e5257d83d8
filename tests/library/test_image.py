"""Images, brought to a location that is a file here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.library.conftest import RunModule

#: A `tfnz image` whose images are called by what is in their archives.
TFNZ = f"""#!{sys.executable}
import json, sys
from pathlib import Path

here, words = Path(__file__).parent, sys.argv[sys.argv.index("image") + 1:]
known = json.loads((here / "images.json").read_text())
if words[0] == "import":
    if (here / "full").exists():
        sys.exit("Error: no space left")
    known[words[3] + ":latest"] = "sha256:" + Path(words[1]).read_text()
    (here / "images.json").write_text(json.dumps(known))
images = {{name: {{"digest": known[name], "names": [name], "size_bytes": 1, "layers": 1}} for name in known}}
print(json.dumps(list(images.values()) if words[0] == "ls" else images[words[3] + ":latest"]))
"""


@pytest.fixture
def location(tmp_path: Path) -> Path:
    folder = tmp_path / "location"
    folder.mkdir()
    (folder / "tfnz").write_text(TFNZ)
    (folder / "tfnz").chmod(0o755)
    (folder / "images.json").write_text('{"other:latest": "sha256:other"}')
    return folder


def test_an_archive_that_was_not_imported_to_its_end_is_imported_by_the_next_run(
    tmp_path: Path, location: Path, run_module: RunModule
) -> None:
    src = tmp_path / "web.tar"
    params = {"name": "web", "src": str(src), "bin_dir": str(location), "note": str(tmp_path / "note")}
    src.write_text("one")
    assert run_module("tfnz_image", **params)["changed"]
    assert not run_module("tfnz_image", **params)["changed"]
    src.write_text("two")
    (location / "full").touch()
    assert "no space left" in run_module("tfnz_image", **params)["msg"]
    assert json.loads((location / "images.json").read_text())["web:latest"] == "sha256:one"
    (location / "full").unlink()
    assert run_module("tfnz_image", **params)["image"]["digest"] == "sha256:two"
    assert not run_module("tfnz_image", **params)["changed"]


@pytest.mark.parametrize("other", [{"name": "shop"}, {"location": "n2"}])
def test_what_was_noted_holds_for_one_name_at_one_location(
    tmp_path: Path, location: Path, run_module: RunModule, other: dict[str, str]
) -> None:
    (tmp_path / "web.tar").write_text("one")
    params = {
        "name": "web",
        "src": str(tmp_path / "web.tar"),
        "bin_dir": str(location),
        "note": str(tmp_path / "note"),
    }
    run_module("tfnz_image", **params)
    (location / "images.json").write_text('{"shop:latest": "sha256:old", "web:latest": "sha256:old"}')
    assert run_module("tfnz_image", **{**params, **other})["changed"]


def test_without_a_note_an_image_of_that_name_will_do(
    tmp_path: Path, location: Path, run_module: RunModule
) -> None:
    (tmp_path / "web.tar").write_text("one")
    params = {"name": "other", "src": str(tmp_path / "web.tar"), "bin_dir": str(location)}
    assert not run_module("tfnz_image", **params)["changed"]
