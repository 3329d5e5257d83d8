"""The node's keys: made once, whole, for their owner's eyes, and never lost in silence."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from nacl.public import PrivateKey, SealedBox

from tfnz.protocol.errors import InvalidArgument
from tfnz_node import keys as module
from tfnz_node.keys import IDENTITY_FILE, SEAL_FILE, KeyDamaged, load_keys

FILES = [IDENTITY_FILE, SEAL_FILE]


def test_the_first_start_makes_two_keys_that_stay(tmp_path: Path) -> None:
    first, second = load_keys(tmp_path), load_keys(tmp_path)
    assert bytes(first.identity) == bytes(second.identity)
    assert bytes(first.seal) == bytes(second.seal)
    assert bytes(first.identity) != bytes(first.seal)


def test_the_files_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_keys(tmp_path)
    finally:
        os.umask(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size == 32


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_damaged_key_is_named_and_left_as_it_is(tmp_path: Path, name: str, content: bytes) -> None:
    load_keys(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KeyDamaged, match=f"{tmp_path / name} has {len(content)} bytes, not 32: restore it"):
        load_keys(tmp_path)
    assert (tmp_path / name).read_bytes() == content


def test_a_crash_before_the_key_has_its_name_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="the disk is full"):
        load_keys(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    load_keys(tmp_path)


def test_two_that_make_the_first_key_at_once_agree_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = PrivateKey.generate()

    class Overtaken(PrivateKey):
        @classmethod
        def generate(cls) -> Overtaken:
            """The other is done while ours is being made."""
            for name in FILES:
                (tmp_path / name).write_bytes(bytes(theirs))
            return cls(bytes(PrivateKey.generate()))

    monkeypatch.setattr(module, "PrivateKey", Overtaken)
    ours = load_keys(tmp_path)
    assert bytes(ours.identity) == bytes(theirs)
    assert (tmp_path / IDENTITY_FILE).read_bytes() == bytes(theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_a_secret_is_opened_with_the_nodes_key(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    assert keys.unseal(SealedBox(keys.seal.public_key).encrypt(b"secret")) == b"secret"


@pytest.mark.parametrize("box", [b"", b"too short", b"x" * 200])
def test_what_is_no_box_is_refused(tmp_path: Path, box: bytes) -> None:
    with pytest.raises(InvalidArgument, match="was not sealed to this node's key"):
        load_keys(tmp_path).unseal(box)


def test_what_was_sealed_to_another_node_is_refused(tmp_path: Path) -> None:
    other = SealedBox(PrivateKey.generate().public_key)
    with pytest.raises(InvalidArgument, match="was not sealed to this node's key"):
        load_keys(tmp_path).unseal(other.encrypt(b"secret"))
