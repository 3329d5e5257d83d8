"""A client program as its director has it: calls that are answered, sessions that come and go, and how it is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from tests.soak.model import End
from tfnz.protocol.exits import Cause

ROOT: Final = Path(__file__).parents[2]
#: A call that is not answered by then hangs.
ANSWER_S: Final = 300.0
#: How long a program may take to begin, on a machine that is very busy.
BEGIN_S: Final = 120.0


class ClientGone(Exception):
    """The program, or the session in which the caller was, is there no more."""


class NoAnswer(Exception):
    """A call is not answered."""


class CallFailed(Exception):
    """What the program says that was raised.

    Attributes:
        error: the name of the class.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}")
        self.error = error


class Listener(Protocol):
    """Hears what the program's callbacks hear."""

    def hear_output(self, name: str, data: str) -> None: ...
    def hear_end(self, name: str, end: End, code: int) -> None: ...


class Player:
    """One client: a program, and another when that was killed.

    Args:
        name: of the client.
        where: what its `Location` is made with: `socket`, or `account`.
        env: variables of the program.
    """

    def __init__(
        self, name: str, where: Mapping[str, str], listener: Listener, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self._where = dict(where)
        self._listener = listener
        self._env = dict(env)
        self._numbers = itertools.count()
        self._answers: dict[int, dict[str, Any] | None] = {}
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._alive = False
        self._session = 0
        self._in_session = False
        self._programs = 0
        self._given_up = False

    @property
    def prefix(self) -> str:
        """What the names of all begin with that this program makes, and no other."""
        return f"{self.name}.{self._programs}."

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    # --- the program

    def begin(self) -> None:
        """Start the program; it has no session yet."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.client"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with self._changed:
            self._process, self._alive = process, True
            self._programs += 1
            ready = self._answers[-1] = None
            self._reader = threading.Thread(target=self._read, args=(process,), name=f"reader of {self.name}")
            self._reader.start()
            self._changed.wait_for(lambda: self._answers[-1] is not None or not self._alive, BEGIN_S)
            ready = self._answers.pop(-1)
        if ready is None:
            raise ClientGone(f"client {self.name} did not begin")

    def kill(self) -> None:
        """End it by SIGKILL; it is dead, and all it has said was heard, when this returns."""
        assert self._process is not None and self._reader is not None
        self.close_session()
        self._process.kill()
        self._process.wait()
        self._finish()

    def stop(self) -> None:
        """Let it end by itself."""
        assert self._process is not None and self._process.stdin is not None
        self.close_session()
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_S)
        finally:
            self._process.kill()
            self._finish()

    def _finish(self) -> None:
        assert self._process is not None and self._reader is not None
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    # --- its sessions

    def open_session(self) -> int:
        """Begin another session, and say its number; callers of the one before are told so."""
        self._call("connect", self._where)
        with self._changed:
            self._session += 1
            self._in_session = True
            self._changed.notify_all()
            return self._session

    def close_session(self) -> None:
        """From now on nobody may use the session that it has; it goes on until the program is told."""
        with self._changed:
            self._in_session = False
            self._changed.notify_all()

    def await_session(self, after: int) -> int | None:
        """The number of the session, when there is one that is later; None when there was none for long."""
        with self._changed:
            self._changed.wait_for(lambda: self._given_up or self._is_later(after), ANSWER_S)
            return self._session if self._is_later(after) else None

    def _is_later(self, session: int) -> bool:
        return self._in_session and self._session > session

    def give_up(self) -> None:
        """There will be no more sessions: nobody need wait for one."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def is_current(self, session: int) -> bool:
        """Whether this is the session that may be used now."""
        return self._in_session and session == self._session

    # --- calls

    def call(self, session: int, operation: str, arguments: Mapping[str, Any]) -> Any:
        """What the program answers.

        Raises:
            CallFailed: something was raised there.
            ClientGone: the session is another, or none, or the program was killed.
            NoAnswer: there is none.
        """
        if not self.is_current(session):
            raise ClientGone
        return self._call(operation, arguments)

    def tell(self, operation: str, arguments: Mapping[str, Any]) -> None:
        """The same for what does not need a session. A program that was killed has nothing to be told."""
        try:
            self._call(operation, arguments)
        except ClientGone:
            pass

    def _call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        number = next(self._numbers)
        line = json.dumps({"id": number, "do": operation, **arguments}).encode() + b"\n"
        with self._changed:
            if not self._alive:
                raise ClientGone
            assert self._process is not None and self._process.stdin is not None
            self._answers[number] = None
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (BrokenPipeError, ValueError):
                del self._answers[number]
                raise ClientGone from None
            process = self._process
            self._changed.wait_for(
                lambda: self._answers[number] is not None or not self._alive or self._process is not process,
                ANSWER_S,
            )
            answer = self._answers.pop(number)
            if answer is None and (not self._alive or self._process is not process):
                raise ClientGone
        if answer is None:
            raise NoAnswer(f"{operation} is not answered after {ANSWER_S:.0f} s")
        if "error" in answer:
            raise CallFailed(answer["error"], answer["message"])
        return answer["value"]

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith(b"\n"):  # it was killed in the middle of it
                break
            said = json.loads(line)
            match said.get("event"):
                case "output":
                    self._listener.hear_output(said["name"], said["data"])
                case "end":
                    end = End(Cause(said["cause"]), said["code"], said["signal"])
                    self._listener.hear_end(said["name"], end, said["returncode"])
                case _:
                    with self._changed:
                        number = said.get("id", -1)
                        if number in self._answers:
                            self._answers[number] = said
                        self._changed.notify_all()
        with self._changed:
            self._alive = False
            self._changed.notify_all()
