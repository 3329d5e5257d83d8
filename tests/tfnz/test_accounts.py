"""Account files: made atomically, never overwritten in silence, refused when broken or open to others."""

from __future__ import annotations

import base64
import os
import stat
import threading
from pathlib import Path

import pytest

from tfnz.accounts import (
    Account,
    account_directory,
    all_locations,
    create_account,
    default_location,
    encode_key,
    find_account,
    fingerprint,
    parse_key,
    parse_location,
    pin_server_key,
    set_default_location,
)
from tfnz.protocol.errors import InvalidArgument, NoAccount

SERVER = bytes(range(32))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "20ft"
    monkeypatch.setenv("TFNZ_HOME", str(path))
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_is_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TFNZ_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert account_directory() == tmp_path / ".20ft"


def test_nothing_there_is_no_account(home: Path) -> None:
    assert find_account() is None
    assert all_locations() == []
    assert default_location() is None


def test_a_created_account_is_found_again(home: Path) -> None:
    made = create_account("Node.example.com", server_key=SERVER)
    assert made == find_account("node.example.com") == find_account("NODE.EXAMPLE.COM")
    assert made.name == "node.example.com"
    assert made.server == SERVER
    assert all_locations() == ["node.example.com"]


def test_files_are_for_their_owner_alone(home: Path) -> None:
    old = os.umask(0)
    try:
        create_account("there", server_key=SERVER)
        set_default_location("there")
    finally:
        os.umask(old)
    assert mode(home) == 0o700
    assert sorted(path.name for path in home.iterdir()) == [
        "default_location",
        "there",
        "there.pub",
        "there.spub",
    ]
    assert {mode(path) for path in home.iterdir()} == {0o600}
    assert base64.b64decode((home / "there.spub").read_bytes()) == SERVER


def test_keys_differ_and_the_secret_is_not_shown(home: Path) -> None:
    one, two = create_account("one"), create_account("two")
    assert one.secret != two.secret
    assert encode_key(one.secret) not in repr(one)
    assert repr(one.secret) not in repr(one)
    assert one.server is None


def test_the_default_is_used_when_nothing_is_named(home: Path) -> None:
    made = create_account("there", server_key=SERVER)
    assert find_account() is None
    set_default_location("there")
    assert default_location() == "there"
    assert find_account() == made


def test_a_default_needs_an_account(home: Path) -> None:
    with pytest.raises(NoAccount, match="tfnz account create nowhere"):
        set_default_location("nowhere")
    assert default_location() is None


def test_a_default_without_its_account_says_who_named_it(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "default_location").write_text("gone\n")
    with pytest.raises(NoAccount, match="default_location names.*tfnz account create gone"):
        find_account()


@pytest.mark.parametrize("content", ["", "\n", "a b", "../x"])
def test_a_broken_default_names_its_file(home: Path, content: str) -> None:
    home.mkdir(mode=0o700)
    (home / "default_location").write_text(content)
    with pytest.raises(NoAccount, match="default_location does not name a location"):
        find_account()


def test_an_account_is_not_overwritten_in_silence(home: Path) -> None:
    first = create_account("there", server_key=SERVER)
    with pytest.raises(InvalidArgument, match="exists and stays as it is.*--overwrite"):
        create_account("there", server_key=SERVER)
    assert find_account("there") == first
    second = create_account("there", overwrite=True)
    assert find_account("there") == second
    assert second.secret != first.secret
    assert second.server is None
    assert not [path for path in home.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("suffix", ["", ".pub", ".spub"])
def test_one_file_of_another_account_is_enough_to_refuse(home: Path, suffix: str) -> None:
    home.mkdir(mode=0o700)
    (home / f"there{suffix}").write_text("precious")
    with pytest.raises(InvalidArgument, match="exists and stays as it is"):
        create_account("there")
    assert [path.name for path in home.iterdir()] == [f"there{suffix}"]
    assert (home / f"there{suffix}").read_text() == "precious"


def test_of_many_at_once_one_wins(home: Path) -> None:
    made: list[Account] = []
    refused: list[InvalidArgument] = []
    start = threading.Barrier(8)

    def create() -> None:
        start.wait()
        try:
            made.append(create_account("there", server_key=SERVER))
        except InvalidArgument as exc:
            refused.append(exc)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(refused) == 7
    assert find_account("there") == made[0]


def test_keys_of_old_have_no_newline_or_have_one(home: Path) -> None:
    made = create_account("there", server_key=SERVER)
    for path in (home / "there", home / "there.pub", home / "there.spub"):
        path.write_bytes(path.read_bytes().strip())
    assert find_account("there") == made


@pytest.mark.parametrize("suffix", ["", ".pub", ".spub"])
@pytest.mark.parametrize("content", [b"", b"not base64!", b"AAAA", b"\xff\xfe", b"A" * 9000])
def test_a_broken_key_names_its_file_and_not_its_content(home: Path, suffix: str, content: bytes) -> None:
    create_account("there", server_key=SERVER)
    (home / f"there{suffix}").write_bytes(content)
    with pytest.raises(NoAccount) as caught:
        find_account("there")
    assert str(home / f"there{suffix}") in str(caught.value)
    assert "not base64!" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".pub"])
def test_half_an_account_names_the_missing_half(home: Path, suffix: str) -> None:
    create_account("there")
    (home / f"there{suffix}").unlink()
    with pytest.raises(NoAccount, match=f"there is no {home / f'there{suffix}'};"):
        find_account("there")


def test_keys_that_do_not_belong_together_are_refused(home: Path) -> None:
    create_account("there")
    other = create_account("other")
    (home / "there.pub").write_text(encode_key(other.public))
    with pytest.raises(NoAccount, match="is not the public key of"):
        find_account("there")


@pytest.mark.parametrize(
    ("name", "bits", "advice"),
    [
        ("there", 0o640, "chmod 600"),
        ("there", 0o604, "chmod 600"),
        ("there.spub", 0o666, "chmod 600"),
        ("there.pub", 0o620, "chmod 600"),
        (".", 0o777, "chmod 700"),
    ],
)
def test_files_open_to_others_are_refused(home: Path, name: str, bits: int, advice: str) -> None:
    create_account("there", server_key=SERVER)
    (home / name).chmod(bits)
    with pytest.raises(NoAccount, match=f"{advice} {home / name}"):
        find_account("there")


def test_public_files_may_be_readable(home: Path) -> None:
    made = create_account("there", server_key=SERVER)
    (home / "there.pub").chmod(0o644)
    (home / "there.spub").chmod(0o444)
    home.chmod(0o755)
    assert find_account("there") == made


def test_credentials_of_a_service_are_systemds_business(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_account("there", server_key=SERVER)
    (home / "there").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(home))
    assert find_account("there") == made


def test_a_directory_in_place_of_a_key_is_named(home: Path) -> None:
    (home / "there").mkdir(parents=True)
    with pytest.raises(NoAccount, match=f"{home / 'there'} cannot be read"):
        find_account("there")


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFNZ_HOME", str(tmp_path / "file" / "20ft"))
    with pytest.raises(NoAccount, match="cannot be written"):
        create_account("there")


def test_a_server_key_can_be_added_later(home: Path) -> None:
    made = create_account("there")
    assert pin_server_key("there", SERVER).server == SERVER
    found = find_account("there")
    assert found is not None
    assert (found.secret, found.server) == (made.secret, SERVER)
    pin_server_key("there", SERVER)


def test_another_server_key_needs_a_word(home: Path) -> None:
    create_account("there", server_key=SERVER)
    with pytest.raises(InvalidArgument, match="pins another key.*tfnz account trust there .* --overwrite"):
        pin_server_key("there", bytes(32))
    assert pin_server_key("there", bytes(32), overwrite=True).server == bytes(32)


def test_a_server_key_of_another_length_is_refused(home: Path) -> None:
    with pytest.raises(InvalidArgument, match="32 bytes"):
        create_account("there", server_key=b"short")
    assert not home.exists()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/etc/passwd", "-x", "x-", ".hidden", "a b", "a\n", "é", "x" * 254, "host_key"],
)
def test_names_that_are_no_locations(name: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_location(name)


@pytest.mark.parametrize("name", ["default_location", "example.pub", "example.spub"])
def test_names_of_our_own_files_are_no_locations(name: str) -> None:
    with pytest.raises(InvalidArgument, match="key files"):
        parse_location(name)


@pytest.mark.parametrize(
    "name", ["a", "localhost", "10.0.0.1", "node-1.example.com", "node1:2021", "x" * 253]
)
def test_names_that_are(name: str) -> None:
    assert parse_location(name) == name


def test_keys_as_text() -> None:
    assert parse_key(encode_key(SERVER) + "\n") == SERVER
    with pytest.raises(InvalidArgument, match="server key is of 3 bytes"):
        parse_key("AAAA", what="server key")
    with pytest.raises(InvalidArgument, match="not base64"):
        parse_key("é" * 44)


def test_a_fingerprint_is_short_and_of_the_public_key() -> None:
    assert fingerprint(SERVER).startswith("SHA256:")
    assert fingerprint(SERVER) != fingerprint(bytes(32))
    assert len(fingerprint(SERVER)) == len("SHA256:") + 43
