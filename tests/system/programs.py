"""Programs that use a node, as processes of their own that a test may stop and kill."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.system.waiting import SOON_S


class Program:
    """A Python program that says on its standard output how far it is, a line at a time.

    Args:
        source: the program.
        arguments: of the program.
        env: its environment; by default ours.
        entrance: a command that executes the one that follows it elsewhere, such as in another network namespace.

    Attributes:
        patience_s: how long it may say nothing that it is waited for.
    """

    patience_s = SOON_S

    def __init__(
        self,
        source: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        entrance: Sequence[str] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [*entrance, sys.executable, "-c", source, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_line(self) -> str:
        """The next line it says; when it ends instead, what it has written to its standard error."""
        assert self.process.stdout is not None and self.process.stderr is not None
        line = b""
        while not line.endswith(b"\n"):
            assert select.select([self.process.stdout], [], [], self.patience_s)[0], (
                f"waited for more after {line!r}"
            )
            data = self.process.stdout.read(1)
            assert data, f"it ended after {line!r}: {self.process.stderr.read().decode()}"
            line += data
        return line.decode().rstrip("\n")

    def expect(self, line: str) -> None:
        """Wait until it says exactly this."""
        said = self.read_line()
        assert said == line, said

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def kill(self) -> None:
        """Kill it with SIGKILL, and return when it is dead."""
        self.process.kill()
        self.process.wait()

    def finish(self) -> tuple[int, str, str]:
        """Close its input and wait for its end: its exit code, and what it has said since, on both."""
        out, err = self.process.communicate(timeout=self.patience_s)
        return self.process.returncode, out.decode(), err.decode()


@contextmanager
def program(
    source: str, *arguments: str, env: Mapping[str, str] | None = None, entrance: Sequence[str] = ()
) -> Iterator[Program]:
    """A program that is killed at the end of the block if it still runs; see `Program`."""
    one = Program(source, *arguments, env=env, entrance=entrance)
    try:
        yield one
    finally:
        one.kill()
        for stream in (one.process.stdin, one.process.stdout, one.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
