"""The table of error codes is total, and an error is itself again after crossing the wire."""

from __future__ import annotations

import pytest

from tfnz.protocol import errors
from tfnz.protocol.errors import ERRORS_BY_CODE, ErrorInfo, TfnzError, describe_error, restore_error

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, TfnzError)
]


def test_every_class_has_a_code_of_its_own_in_the_table() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)
    assert {cls.code: cls for cls in CLASSES} == ERRORS_BY_CODE


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_the_wire(cls: type[TfnzError]) -> None:
    restored = restore_error(describe_error(cls("what failed, on 'this'")))
    assert type(restored) is cls
    assert str(restored) == restored.message == "what failed, on 'this'"


def test_the_hierarchy_in_the_docstring_names_every_class() -> None:
    assert errors.__doc__ is not None
    assert [cls.__name__ for cls in CLASSES if cls.__name__ not in errors.__doc__] == []


def test_a_fault_of_ours_tells_nothing_of_the_inside() -> None:
    info = describe_error(ZeroDivisionError("secret detail"))
    assert info.code == "internal_error"
    assert "secret detail" not in info.message


def test_a_code_of_a_newer_peer_is_still_an_error() -> None:
    error = restore_error(ErrorInfo("from_the_future", "no"))
    assert type(error) is TfnzError
    assert error.code == "from_the_future"


def test_long_texts_are_cut() -> None:
    assert len(describe_error(TfnzError("x" * 10**6)).message) == errors.MAX_ERROR_TEXT


@pytest.mark.parametrize(
    ("code", "builtin"),
    [
        ("invalid_argument", ValueError),
        ("tag_in_use", ValueError),
        ("image_not_found", RuntimeError),
        ("not_found", KeyError),
        ("object_dead", ValueError),
        ("path_not_found", FileNotFoundError),
        ("path_is_directory", ValueError),
        ("timed_out", TimeoutError),
        ("no_account", RuntimeError),
        ("session_lost", ConnectionError),
        ("disk_full", OSError),
    ],
)
def test_programs_of_old_catch_what_they_expect(code: str, builtin: type[Exception]) -> None:
    assert issubclass(ERRORS_BY_CODE[code], builtin)
