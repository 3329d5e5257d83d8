"""What components of applications are built from."""

from __future__ import annotations

import threading

import pytest

from tfnz import Killable, ObjectDead, Waitable


def test_what_is_locked_is_waited_for() -> None:
    one = Waitable()
    assert not one.is_ready()
    with pytest.raises(TimeoutError, match="not ready"):
        one.wait_until_ready(timeout=0.01)
    threading.Thread(target=one.mark_as_ready).start()
    assert one.wait_until_ready() is one
    one.mark_not_ready()
    assert not one.is_ready()
    assert Waitable(False).is_ready()


def test_what_is_dead_stays_so() -> None:
    one = Killable()
    one.ensure_alive()
    assert [one.dead, one.bail_if_dead()] == [False, False]
    one.mark_as_dead()
    assert [one.dead, one.bail_if_dead()] == [True, True]
    with pytest.raises(ObjectDead):
        one.ensure_alive()
    with pytest.raises(ValueError, match="has ended"):
        one.ensure_alive()
