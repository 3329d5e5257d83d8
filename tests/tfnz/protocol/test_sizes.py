"""Sizes as people write them, and what is said about what is none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.sizes import MAX_SIZE, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (0, 0),
        (4096, 4096),
        ("0", 0),
        ("1", 1),
        ("100B", 100),
        ("1k", 1024),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("512MB", 512 << 20),
        ("512MiB", 512 << 20),
        ("512 MiB", 512 << 20),
        ("  4G\n", 4 << 30),
        ("1.5GiB", 3 << 29),
        ("0.1T", (1 << 40) // 10),
        ("2P", 2 << 50),
        ("1024P", MAX_SIZE),
        (MAX_SIZE, MAX_SIZE),
    ],
)
def test_what_people_write(text: int | str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "M",
        "-1",
        "-1M",
        -1,
        "1e3",
        "1,5G",
        "1.G",
        ".5G",
        "1 2",
        "1X",
        "1MM",
        "1iB2",
        "0x10",
        "inf",
        "nan",
        "٣M",
    ],
)
def test_what_is_no_size(text: int | str) -> None:
    with pytest.raises(InvalidArgument, match="use a number of bytes"):
        parse_size(text)


@pytest.mark.parametrize("value", [None, 1.5, True, b"512M", [512]])
def test_what_is_not_even_text(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="no size"):
        parse_size(value)


@pytest.mark.parametrize("text", ["1025P", MAX_SIZE + 1, "9" * 20, pytest.param(10**5000, id="huge")])
def test_what_no_machine_holds(text: int | str) -> None:
    with pytest.raises(InvalidArgument, match="more than 1024P, surely a mistake"):
        parse_size(text)


def test_the_error_names_what_the_size_is_of_and_is_short() -> None:
    with pytest.raises(InvalidArgument, match=r"^memory is '9+', which is no size") as raised:
        parse_size("9" * 1_000_000, what="memory")
    assert len(raised.value.message) < 300


@given(st.text())
def test_any_text_is_a_size_or_an_invalid_argument(text: str) -> None:
    try:
        assert 0 <= parse_size(text) <= MAX_SIZE
    except InvalidArgument:
        pass


@given(st.integers(0, MAX_SIZE))
def test_what_is_printed_reads_back_as_nearly_the_same(size_bytes: int) -> None:
    back = parse_size(format_size(size_bytes))
    assert back <= size_bytes
    assert size_bytes - back <= size_bytes // 10


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1K"),
        (1536, "1.5K"),
        (1025, "1.0K"),
        (512 << 20, "512M"),
        (4 << 30, "4G"),
    ],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
