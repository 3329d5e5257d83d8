"""Network namespaces: made, visited, and left again."""

from __future__ import annotations

import os
import socket

from tfnz_node.kernel.netns import make_netns, open_own_netns, visiting


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def test_a_thread_visits_and_comes_home() -> None:
    home, made = open_own_netns(), make_netns()
    try:
        assert os.fstat(home).st_ino != os.fstat(made).st_ino
        with visiting(made, home):
            inside = open_own_netns()
            assert os.fstat(inside).st_ino == os.fstat(made).st_ino
            os.close(inside)
            assert interfaces() == ["lo"]
        after = open_own_netns()
        assert os.fstat(after).st_ino == os.fstat(home).st_ino
        os.close(after)
    finally:
        os.close(home)
        os.close(made)
