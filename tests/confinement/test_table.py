"""The table in docs/security.md is the one that the recorded comparison makes."""

from __future__ import annotations

import pytest

from tests.confinement.recorded import DOCUMENT, FILE, format_recorded, read_recorded
from tests.confinement.table import BEGIN, END, render_table, replace_table


def test_the_document_shows_what_is_recorded() -> None:
    text = DOCUMENT.read_text()
    assert replace_table(text, render_table(*read_recorded())) == text, (
        "run: scripts/private-host .venv/bin/python -m tests.confinement.recorded"
    )


def test_what_is_read_is_written_the_same() -> None:
    assert format_recorded(*read_recorded()) == FILE.read_text()


def test_the_table_goes_between_the_markers() -> None:
    assert replace_table(f"a\n{BEGIN}\nold\n{END}\nb\n", "new\n") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb\n"
    with pytest.raises(ValueError, match="lacks"):
        replace_table("no markers", "new\n")
