"""The gate waits for those who are inside, and lets nobody in meanwhile."""

from __future__ import annotations

import threading

from tests.soak.gate import Gate

SOON_S = 30.0


def test_whoever_is_inside_goes_on_and_nobody_enters() -> None:
    gate, entered, may_leave, again = Gate(), threading.Event(), threading.Event(), threading.Event()

    def pass_twice() -> None:
        with gate.passing():
            entered.set()
            may_leave.wait(SOON_S)
        with gate.passing():
            again.set()

    thread = threading.Thread(target=pass_twice)
    thread.start()
    assert entered.wait(SOON_S)
    assert not gate.shut(0.0), "somebody is inside"
    may_leave.set()
    assert gate.shut(SOON_S)
    assert not again.is_set()
    gate.open()
    thread.join(SOON_S)
    assert again.is_set()
