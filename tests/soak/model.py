"""What must be true of containers and processes, as far as anybody can know; pure: it is told, and compares.

Wherever a call was interrupted and both outcomes are possible, the model holds both until one is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.soak.lines import Lines
from tfnz.protocol.exits import Cause, Exit

#: So much of what was done to a container is told with what is wrong with it.
HISTORY = 60
#: So much of what is wrong is told: it may be a log.
MAX_TEXT = 8000
#: Of so many violations all is told; of more, only how many there are.
MAX_VIOLATIONS = 200


@dataclass(frozen=True)
class End:
    """How something ended, without the words for people."""

    cause: Cause
    code: int | None = None
    signal: int | None = None

    @property
    def returncode(self) -> int:
        return Exit(self.cause, self.code, self.signal).returncode

    def __str__(self) -> str:
        return str(Exit(self.cause, self.code, self.signal))


DESTROYED = End(Cause.DESTROYED)
#: What a session that is over does to all that it owns.
SESSION_OVER = (End(Cause.SESSION_GONE), End(Cause.NODE_LOST))


def exited(code: int) -> End:
    return End(Cause.EXITED, code=code)


def signalled(number: int) -> End:
    return End(Cause.SIGNALLED, signal=number)


@dataclass(frozen=True)
class Violation:
    """Something that must not be.

    Attributes:
        at_s: seconds since the run began.
        about: the container or process, or what else it is about.
        what: what is wrong.
        history: what was done to it before.
        kernel: what the kernel had said last.
    """

    at_s: float
    about: str
    what: str
    history: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"history": list(self.history), "kernel": list(self.kernel)}


@dataclass
class Life:
    """What is predicted, and what was heard, of one container or process.

    Attributes:
        owner: the client that it is of.
        parent: the container that it is a process in.
        lines: what it prints, if that is numbered.
        possible: how it may end.
        complete: ends that come after it has printed everything.
        heard: the ends that were told, of which there may be one.
        files: by path, the digests that a file may have; None is that it is not there.
        reachable: whether its peer may connect to it, as far as is known.
        starting: whether it is on its way to run, for the first time or again.
        reboots: how often that was asked for again.
        unborn: it was not made, or nobody knows of it: nothing may be heard of it.
        abandoned: its client was killed, and hears nothing any more.
    """

    name: str
    owner: str
    parent: Life | None = None
    lines: Lines | None = None
    possible: set[End] = field(default_factory=set)
    complete: set[End] = field(default_factory=set)
    heard: list[End] = field(default_factory=list)
    files: dict[str, set[str | None]] = field(default_factory=dict)
    reachable: set[bool] = field(default_factory=lambda: {False})
    ip: str = ""
    starting: bool = True
    reboots: int = 0
    unborn: bool = False
    abandoned: bool = False
    history: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether its end was told."""
        return bool(self.heard)

    def may_end(self) -> bool:
        """Whether it may have ended by now, or may soon."""
        return bool(self.possible) or self.over or (self.parent is not None and self.parent.may_end())

    def told_at_once(self) -> bool:
        """Whether its owner may have ended it: that is told where it is done, perhaps before what it has said last."""
        ends = {DESTROYED, *SESSION_OVER}
        if self.heard[0].cause is Cause.CONTAINER_ENDED and self.parent is not None:
            return self.parent.reboots > 0 or bool(ends & self.parent.possible)
        return self.heard[0] in ends

    def allows(self, end: End) -> bool:
        if end in self.possible:
            return True
        if self.parent is None:
            return False
        if end.cause is Cause.OUT_OF_MEMORY:
            # The kernel chooses whom it kills where memory ends: one that died has not given all of its back yet.
            return end in self.parent.possible
        return end.cause is Cause.CONTAINER_ENDED and self.parent.may_end()


class Model:
    """All of them.

    Args:
        now: seconds since the run began.
        read_kernel: the last lines of the kernel's log.
    """

    def __init__(self, now: Callable[[], float], read_kernel: Callable[[], tuple[str, ...]] = tuple) -> None:
        self._now = now
        self._read_kernel = read_kernel
        self._lives: dict[str, Life] = {}
        self._ending: dict[str, set[End]] = {}
        self.violations: list[Violation] = []
        self.violation_count = 0

    def __getitem__(self, name: str) -> Life:
        return self._lives[name]

    def living(self, owner: str | None = None) -> list[Life]:
        """Those of which no end was told, of one client or of all."""
        return [
            life
            for life in self._lives.values()
            if not life.over and not life.abandoned and not life.unborn and owner in (None, life.owner)
        ]

    # --- what is done

    def begin(
        self,
        name: str,
        owner: str,
        *,
        parent: Life | None = None,
        prints: bool = False,
        ends: Iterable[End] = (),
    ) -> Life:
        """Somebody asks for it."""
        life = Life(name, owner, parent, Lines() if prints else None, set(ends))
        life.possible |= self._ending.get(owner, set())
        self._lives[name] = life
        return life

    def note(self, life: Life, text: str) -> None:
        """Something was done to it."""
        life.history.append(f"{self._now():.2f} {text}")
        del life.history[:-HISTORY]

    def refuse(self, life: Life) -> None:
        """It could not be made, or nobody knows whether it was: what was made is gone, and nothing is heard of it."""
        life.unborn = True
        if life.heard:
            self.violate(life, f"it was not made, and its end was told: {life.heard[0]}")

    def may_end(self, life: Life, *ends: End, complete: bool = False) -> None:
        """From now on it may end so; `complete`: it has printed everything then, unless it may end so anyway."""
        if complete:
            life.complete |= set(ends) - life.possible
        else:
            life.complete -= set(ends)
        life.possible.update(ends)

    def end_sessions(self, owner: str, *ends: End) -> None:
        """All that a client has, or makes until it begins another session, may end so."""
        self._ending[owner] = set(ends)
        for life in self.living(owner):
            life.possible.update(ends)

    def begin_session(self, owner: str) -> None:
        """The client has another session."""
        self._ending.pop(owner, None)

    def session_ends(self, owner: str) -> bool:
        """Whether the client's session may be over."""
        return owner in self._ending

    def abandon(self, owner: str) -> list[Life]:
        """The client was killed: nobody hears of its containers any more, which all have to end. They are returned."""
        lives = self.living(owner)
        for life in lives:
            life.abandoned = True
        return lives

    def forget(self, lives: Iterable[Life]) -> None:
        """Nothing more is of interest of them, but that nothing more may come."""
        for life in lives:
            life.history.clear()
            life.files.clear()

    # --- files

    def may_write(self, life: Life, files: dict[str, str]) -> None:
        """Files are being written: each is what it was, or what it is to be."""
        for path, digest in files.items():
            life.files[path] = life.files.get(path, {None}) | {digest}

    def wrote(self, life: Life, files: dict[str, str]) -> None:
        for path, digest in files.items():
            life.files[path] = {digest}

    def may_reset(self, life: Life, first: dict[str, str]) -> None:
        """Its files may be as they were at first."""
        for path, digests in life.files.items():
            digests.add(first.get(path))

    def was_reset(self, life: Life, first: dict[str, str]) -> None:
        life.files = {path: {first.get(path)} for path in {*life.files, *first}}

    def read(self, life: Life, path: str, digest: str | None) -> None:
        """What a file has been found to be."""
        known = life.files.get(path, {None})
        if digest not in known:
            self.violate(life, f"{path} is {_short(digest)}, expected {' or '.join(map(_short, known))}")
        life.files[path] = {digest}

    # --- connections

    def connected(self, life: Life, reached: bool) -> None:
        """Whether its peer has reached it."""
        if reached not in life.reachable:
            self.violate(
                life,
                "its peer reaches it without permission"
                if reached
                else "its peer is permitted, and cannot reach it",
            )

    # --- what is heard

    def hear_output(self, name: str, data: str) -> None:
        life = self._lives[name]
        if life.unborn:
            self.violate(life, f"it was not made, and says {data[:80]!r}")
        elif life.over:
            if not life.told_at_once():
                self.violate(life, f"it has ended, and says {data[:80]!r}")
        elif life.lines is not None:
            for wrong in life.lines.feed(data):
                self.violate(life, wrong)

    def hear_end(self, name: str, end: End, code: int) -> None:
        life = self._lives[name]
        self.note(life, f"told of its end: {end}")
        if life.abandoned:
            return
        life.heard.append(end)
        if life.unborn:
            self.violate(life, f"it was not made, and its end was told: {end}")
        elif len(life.heard) > 1:
            self.violate(life, f"its end was told {len(life.heard)} times: {', '.join(map(str, life.heard))}")
        elif not life.allows(end):
            expected = " or ".join(sorted(map(str, life.possible))) or "that it goes on"
            self.violate(life, f"its end was: {end}, expected {expected}")
        if code != end.returncode:
            self.violate(life, f"its callback had code {code}, its end was: {end}")
        if end in life.complete and life.lines is not None and (lost := life.lines.missing()) is not None:
            self.violate(life, lost)

    def check_ended(self, life: Life) -> None:
        """By now its end must have been told."""
        if not life.over and not life.abandoned and not life.unborn:
            self.violate(life, "its end was never told")

    def violate(self, about: Life | str, what: str) -> None:
        """Something is as it must not be."""
        self.violation_count += 1
        if len(self.violations) < MAX_VIOLATIONS:
            name, history = (about, ()) if isinstance(about, str) else (about.name, tuple(about.history))
            self.violations.append(
                Violation(round(self._now(), 3), name, what[:MAX_TEXT], history, self._read_kernel())
            )


def _short(digest: str | None) -> str:
    return "absent" if digest is None else digest[:12]
