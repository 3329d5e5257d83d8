"""The file of the store: deaths, damage and other people's files."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tfnz.protocol.errors import describe_error
from tfnz_node.store.base import StoreDamaged, StoreError, StoreFull, StoreTooNew
from tfnz_node.store.sqlite import APPLICATION_ID, SCHEMA_VERSION, open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.sqlite"


def fill(path: Path, count: int = 50) -> None:
    store = open_store(path)
    with store.transaction():
        for number in range(count):
            store.put("image", f"{number:04}", b"x" * 200)
    store.close()


def read_everything(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def test_it_is_still_there_when_it_is_opened_again(path: Path) -> None:
    fill(path)
    store = open_store(path)
    assert len(store.items("image")) == 50
    store.close()


def test_nobody_else_may_read_it(path: Path) -> None:
    store = open_store(path)
    store.put("image", "a", b"1")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    store.close()
    assert modes == {"node.sqlite": 0o600, "node.sqlite-wal": 0o600, "node.sqlite-shm": 0o600}


def test_commits_wait_for_the_disk_in_a_log(path: Path) -> None:
    store = open_store(path)
    [(synchronous,)] = store._execute("PRAGMA synchronous")
    [(journal,)] = store._execute("PRAGMA journal_mode")
    store.close()
    assert (synchronous, journal) == (2, "wal")


KILLED = """
import os, signal, sys
from pathlib import Path
from tfnz_node.store.sqlite import open_store
store = open_store(Path(sys.argv[1]))
store.put("image", "kept", b"1")
with store.transaction():
    store.put("image", "half", b"2")
    store.delete("image", "kept")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_daemon_that_dies_leaves_whole_transactions_only(path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=30)
    assert died.returncode == -signal.SIGKILL
    store = open_store(path)
    assert store.items("image") == [("kept", b"1")]
    store.close()


def test_a_log_cut_off_anywhere_leaves_the_first_transactions(path: Path, tmp_path: Path) -> None:
    # A power cut: the files as they are on the disk, the log torn at any byte.
    store = open_store(path)
    for number in range(8):
        store.put("image", f"{number}", bytes([number]) * 100)
    database, log = path.read_bytes(), path.with_name("node.sqlite-wal").read_bytes()
    store.close()
    counts = set()
    for length in range(0, len(log) + 1, 777):
        torn = tmp_path / f"torn-{length}.sqlite"
        torn.write_bytes(database)
        torn.with_name(torn.name + "-wal").write_bytes(log[:length])
        store = open_store(torn)
        items = store.items("image")
        store.close()
        assert items == [(f"{number}", bytes([number]) * 100) for number in range(len(items))]
        counts.add(len(items))
    assert counts >= set(range(8))


def test_another_process_is_seen_at_once(path: Path) -> None:
    daemon, command = open_store(path), open_store(path)
    command.put("account", "a", b"1")
    assert daemon.get("account", "a") == b"1"
    command.close()
    daemon.put("account", "b", b"2")
    daemon.close()


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no database at all": lambda path: path.write_bytes(b"these are not the bytes\n" * 1000),
    "its head is gone": lambda path: overwrite(path, 0, bytes(100)),
    "a page is gone": lambda path: overwrite(path, 4096, b"\xff" * 4096),
    "its end is gone": lambda path: os.truncate(path, 4096 * 2),
    "a short file": lambda path: path.write_bytes(b"SQLite"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_and_left_alone(path: Path, name: str) -> None:
    fill(path)
    DAMAGES[name](path)
    before = read_everything(path)
    with pytest.raises(StoreDamaged, match="is damaged: .* move it aside") as raised:
        open_store(path)
    assert str(path) in str(raised.value)
    assert read_everything(path)["node.sqlite"] == before["node.sqlite"]


def test_a_damaged_file_keeps_its_log(path: Path) -> None:
    fill(path)
    store = open_store(path)
    store.put("image", "a", b"1")
    torn = path.with_name("torn.sqlite")
    log = path.with_name("node.sqlite-wal").read_bytes()
    torn.write_bytes(bytes(100) + path.read_bytes()[100:])
    torn.with_name("torn.sqlite-wal").write_bytes(log)
    store.close()
    with pytest.raises(StoreDamaged):
        open_store(torn)
    assert torn.with_name("torn.sqlite-wal").read_bytes() == log


def test_damage_that_shows_later_is_named_too(path: Path) -> None:
    fill(path, 500)
    store = open_store(path)
    overwrite(path, 4096 * 3, b"\xff" * 4096 * 10)
    with pytest.raises(StoreDamaged, match=r"node\.sqlite is damaged"):
        store.items("image")
    store.close()


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipe (name TEXT)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreDamaged, match="a database of another program"):
        open_store(path)
    assert path.read_bytes() == before


def test_a_newer_format_asks_for_a_newer_node(path: Path) -> None:
    fill(path)
    later = sqlite3.connect(path)
    later.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    later.close()
    with pytest.raises(StoreTooNew, match="install the version that wrote it"):
        open_store(path)


def test_a_daemon_that_died_before_the_first_commit_is_no_damage(path: Path) -> None:
    begun = sqlite3.connect(path)
    begun.execute("PRAGMA journal_mode = WAL")
    begun.close()
    assert path.stat().st_size > 0
    fill(path)


def test_the_file_says_whose_it_is(path: Path) -> None:
    fill(path)
    assert int.from_bytes(path.read_bytes()[68:72], "big") == APPLICATION_ID


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"cannot open the node's database .*/missing/node\.sqlite: No such file"
    ):
        open_store(tmp_path / "missing" / "node.sqlite")


def test_a_symbolic_link_in_its_place_is_refused(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot open"):
        open_store(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_name_with_odd_characters_is_a_name(tmp_path: Path) -> None:
    odd = tmp_path / "50% of a?b#c"
    odd.mkdir()
    fill(odd / "node.sqlite")
    assert (odd / "node.sqlite").stat().st_size > 4096


def test_a_full_disk_undoes_the_transaction_and_says_so(path: Path) -> None:
    store = open_store(path)
    store.put("image", "kept", b"1")
    [(pages,)] = store._execute("PRAGMA page_count")
    store._execute(f"PRAGMA max_page_count = {pages + 2}")
    with (
        pytest.raises(StoreFull, match=r"node\.sqlite failed: .*full; free some room") as caught,
        store.transaction(),
    ):
        store.put("image", "small", b"2")
        store.put("image", "large", b"x" * 100_000)
    assert describe_error(caught.value).code == "disk_full"  # whose request it was is told
    assert store.items("image") == [("kept", b"1")]
    store.put("image", "after", b"3")
    store.close()
