"""What an account's sessions keep in memory together, and which of them has to go."""

from __future__ import annotations

from tfnz_node.gateway.buffers import Buffer, Buffers


class Session:
    """Whose buffer it is."""

    def __init__(self, buffers: Buffers, account: str = "a") -> None:
        self.overflows: list[str] = []
        self.kept = 0
        self.buffer = Buffer(buffers, account, lambda: self.kept, self.overflows.append)

    def keep(self, count: int) -> None:
        """So many bytes are kept for it now."""
        self.kept = count
        self.buffer.update()


def test_all_of_an_account_count_together() -> None:
    buffers = Buffers(100)
    one, other, stranger = Session(buffers), Session(buffers), Session(buffers, "b")
    one.keep(60)
    other.keep(40)
    stranger.keep(100)
    assert (buffers.count("a"), buffers.in_use("a"), buffers.count("b")) == (100, 2, 100)
    one.keep(0)
    assert (buffers.count("a"), buffers.in_use("a")) == (40, 1)
    assert one.overflows == other.overflows == stranger.overflows == []


def test_the_fullest_overflows_once_and_makes_room() -> None:
    buffers = Buffers(100)
    one, other = Session(buffers), Session(buffers)
    one.keep(60)
    other.keep(41)
    assert len(one.overflows) == 1 and "101 bytes" in one.overflows[0]
    one.keep(1000)
    assert (buffers.count("a"), one.overflows[1:], other.overflows) == (41, [], [])
    other.keep(101)
    assert len(other.overflows) == 1 and buffers.count("a") == 0


def test_what_others_have_is_looked_at_before_any_has_to_go() -> None:
    buffers = Buffers(100)
    one, other = Session(buffers), Session(buffers)
    one.keep(60)
    one.kept = 10  # which nobody has said
    other.keep(50)
    assert (buffers.count("a"), one.overflows, other.overflows) == (60, [], [])
    other.keep(91)
    assert (buffers.count("a"), one.overflows, len(other.overflows)) == (10, [], 1)


def test_nothing_is_left_of_what_is_closed() -> None:
    buffers = Buffers(100)
    one = Session(buffers)
    one.keep(100)
    one.buffer.close()
    one.buffer.close()
    one.keep(5)
    assert (buffers.count("a"), buffers.in_use("a")) == (0, 0)


def test_without_a_quota_nothing_overflows() -> None:
    one = Session(Buffers())
    one.keep(1 << 40)
    assert one.overflows == [] and one.buffer.share_bytes(32) == 32


def test_a_share_is_smaller_the_more_have_something() -> None:
    buffers = Buffers(800)
    sessions = [Session(buffers) for _ in range(4)]
    shares = []
    for session in sessions:
        session.keep(1)
        shares.append(session.buffer.share_bytes(150))
    assert shares == [150, 100, 66, 50]
