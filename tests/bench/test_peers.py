"""Peers that this machine does not have."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from bench.contender import Contender, ContenderFailed
from bench.peers import starting_each
from bench.peers.floor import Floor


def test_a_peer_that_is_missing_is_said_and_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    ended: list[str] = []

    def start_missing(stack: ExitStack, _directory: Path, _image: Path) -> list[Contender]:
        stack.callback(ended.append, "what it had begun")
        raise ContenderFailed("there is no dockerd: install Debian's docker.io")

    def start_floor(stack: ExitStack, _directory: Path, _image: Path) -> list[Contender]:
        stack.callback(ended.append, "unshare")
        return [Floor()]

    starters = {"docker": start_missing, "unshare": start_floor}
    with starting_each(starters, tmp_path, tmp_path, said.append) as peers:
        assert [peer.name for peer in peers] == ["unshare"]
        assert ended == ["what it had begun"]
        peers[0].spawn().destroy()
        peers[0].spawn_first_byte().destroy()
    assert ended == ["what it had begun", "unshare"]
    assert said == [
        "starting docker",
        "docker is left out: there is no dockerd: install Debian's docker.io",
        "starting unshare",
    ]
