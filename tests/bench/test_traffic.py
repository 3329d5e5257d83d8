"""The program that measures a network, as the measurements start it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import traffic

PROGRAM = [sys.executable, "-c", Path(traffic.__file__).read_text()]


@pytest.fixture
def serving() -> Iterator[None]:
    with subprocess.Popen([*PROGRAM, "serve"]) as server:
        yield
        server.kill()


def ask(*words: str) -> list[float]:
    done = subprocess.run([*PROGRAM, *words], capture_output=True, timeout=30, check=True)
    answer: list[float] = json.loads(done.stdout)
    return answer


@pytest.mark.usefixtures("serving")
def test_all_that_is_sent_arrives() -> None:
    (taken,) = ask("send", "127.0.0.1", str(3 * traffic.BLOCK_BYTES + 5))
    assert taken > 0


@pytest.mark.usefixtures("serving")
def test_each_byte_comes_back() -> None:
    taken = ask("go_and_return", "127.0.0.1", "4")
    assert len(taken) == 4
    assert min(taken) > 0
