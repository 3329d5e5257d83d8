"""What every store does: one suite, run on the real one and on the one in memory."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz_node.store.base import Store, StoreError
from tfnz_node.store.memory import MemoryStore
from tfnz_node.store.sqlite import open_store


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store = open_store(tmp_path / "node.sqlite") if request.param == "sqlite" else MemoryStore()
    yield opened
    opened.close()


def test_what_was_put_is_got(store: Store) -> None:
    store.put("image", "a", b"1")
    assert store.get("image", "a") == b"1"


def test_what_was_never_put_is_none(store: Store) -> None:
    assert store.get("image", "a") is None


def test_kinds_are_apart(store: Store) -> None:
    store.put("image", "a", b"1")
    store.put("account", "a", b"2")
    assert store.get("image", "a") == b"1"
    store.delete("image", "a")
    assert store.get("account", "a") == b"2"
    assert store.items("image") == []


def test_putting_again_replaces(store: Store) -> None:
    store.put("image", "a", b"1")
    store.put("image", "a", b"2")
    assert store.items("image") == [("a", b"2")]


def test_deleting_forgets_and_may_be_repeated(store: Store) -> None:
    store.put("image", "a", b"1")
    store.delete("image", "a")
    store.delete("image", "a")
    assert store.get("image", "a") is None


def test_items_are_in_order_and_a_copy(store: Store) -> None:
    for key in ("b", "ä", "a", "\U0001f980", "B", ""):
        store.put("image", key, key.encode())
    items = store.items("image")
    assert [key for key, _ in items] == ["", "B", "a", "b", "ä", "\U0001f980"]
    store.delete("image", "a")
    assert ("a", b"a") in items


@pytest.mark.parametrize("value", [b"", b"\x00", bytes(range(256)), b"x" * 3_000_000])
def test_any_bytes_are_kept(store: Store, value: bytes) -> None:
    store.put("image", "a\x00b'\"", value)
    assert store.get("image", "a\x00b'\"") == value


def test_a_transaction_keeps_everything(store: Store) -> None:
    store.put("image", "old", b"1")
    with store.transaction():
        store.put("image", "new", b"2")
        store.delete("image", "old")
        assert store.items("image") == [("new", b"2")]
    assert store.items("image") == [("new", b"2")]


def test_a_transaction_that_fails_keeps_nothing(store: Store) -> None:
    store.put("image", "old", b"1")
    with pytest.raises(KeyError, match="on purpose"), store.transaction():
        store.put("image", "new", b"2")
        store.delete("image", "old")
        raise KeyError("on purpose")
    assert store.items("image") == [("old", b"1")]
    store.put("image", "after", b"3")
    assert store.get("image", "after") == b"3"


def test_an_inner_transaction_that_fails_takes_only_its_part(store: Store) -> None:
    with store.transaction():
        store.put("image", "outer", b"1")
        with pytest.raises(KeyError), store.transaction():
            store.put("image", "inner", b"2")
            with store.transaction():
                store.put("image", "innermost", b"3")
            raise KeyError
        with store.transaction():
            store.put("image", "second", b"4")
    assert [key for key, _ in store.items("image")] == ["outer", "second"]


def test_an_outer_transaction_that_fails_takes_the_inner_one_with_it(store: Store) -> None:
    with pytest.raises(KeyError), store.transaction():
        with store.transaction():
            store.put("image", "inner", b"2")
        raise KeyError
    assert store.items("image") == []


def test_other_threads_wait_for_the_end_of_a_transaction(store: Store) -> None:
    seen: list[list[tuple[str, bytes]]] = []
    started = threading.Event()

    def look() -> None:
        started.set()
        seen.append(store.items("image"))

    other = threading.Thread(target=look)
    with store.transaction():
        store.put("image", "a", b"1")
        other.start()
        assert started.wait(10)
        store.put("image", "b", b"2")
    other.join(10)
    assert seen == [[("a", b"1"), ("b", b"2")]]


def test_counting_in_transactions_loses_nothing_between_threads(store: Store) -> None:
    store.put("count", "a", b"0")

    def count() -> None:
        for _ in range(20):
            with store.transaction():
                store.put("count", "a", b"%d" % (int(store.get("count", "a") or b"0") + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert store.get("count", "a") == b"80"


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get("image", "a")
    with pytest.raises(StoreError, match="closed"), store.transaction():
        raise AssertionError("a closed store began a transaction")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.text(max_size=3), st.binary(max_size=5))))
def test_both_stores_agree_whatever_is_done(steps: list[tuple[bool, str, str, bytes]]) -> None:
    # In memory: a hundred files that a disk has to have, step by step, take as long as the disk pleases.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        _compare(Path(scratch), steps)


def _compare(scratch: Path, steps: list[tuple[bool, str, str, bytes]]) -> None:
    real: Store = open_store(scratch / "node.sqlite")
    fake: Store = MemoryStore()
    try:
        for putting, kind, key, value in steps:
            for store in (real, fake):
                if putting:
                    store.put(kind, key, value)
                else:
                    store.delete(kind, key)
        for kind in "ab":
            assert real.items(kind) == fake.items(kind)
    finally:
        real.close()
