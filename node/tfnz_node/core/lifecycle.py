"""The life of a container, as a table of allowed transitions.

    CREATING ──► STARTING ──► RUNNING ◄──► REBOOTING
        │            ▲            │             │
        │            │ start      │             │
        ├──────► SLEEPING ◄───────┼─────────────┤  (a reboot of a sleeping container sleeps again)
        │            │            │             │
        └────────────┴────► ENDING ◄────────────┘
                               │
                             ENDED

CREATING has a slot and no process; SLEEPING can be used but its main process has not been started; ENDING has been
told to end, or its main process has; ENDED leaves nothing on the host. Everything that changes a state goes through
`Life.become`.
"""

from __future__ import annotations

import enum

from tfnz.protocol.errors import InternalError


class State(enum.Enum):
    CREATING = "creating"
    SLEEPING = "sleeping"
    STARTING = "starting"
    RUNNING = "running"
    REBOOTING = "rebooting"
    ENDING = "ending"
    ENDED = "ended"


ALLOWED: dict[State, frozenset[State]] = {
    State.CREATING: frozenset({State.SLEEPING, State.STARTING, State.ENDING}),
    State.SLEEPING: frozenset({State.STARTING, State.REBOOTING, State.ENDING}),
    State.STARTING: frozenset({State.RUNNING, State.ENDING}),
    State.RUNNING: frozenset({State.REBOOTING, State.ENDING}),
    State.REBOOTING: frozenset({State.SLEEPING, State.STARTING, State.ENDING}),
    State.ENDING: frozenset({State.ENDED}),
    State.ENDED: frozenset(),
}

#: The states in which processes can be started and files moved.
USABLE = frozenset({State.SLEEPING, State.RUNNING})
OVER = frozenset({State.ENDING, State.ENDED})


class Life:
    """Where one container is in its life."""

    def __init__(self, name: str, state: State = State.CREATING) -> None:
        self._name = name
        self.state = state

    def become(self, state: State) -> None:
        """Move to `state`.

        Raises:
            InternalError: the table does not allow it.
        """
        if state not in ALLOWED[self.state]:
            raise InternalError(f"container {self._name} cannot go from {self.state.value} to {state.value}")
        self.state = state

    @property
    def usable(self) -> bool:
        return self.state in USABLE

    @property
    def over(self) -> bool:
        return self.state in OVER
