"""Who is let in, as whom: the table of questions that libzmq asks, and the answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import zmq
import zmq.asyncio

from tfnz_node.gateway.zap import ENDPOINT, Authenticator, as_account

pytestmark = pytest.mark.asyncio(loop_factories=["real"])

KNOWN, UNKNOWN = b"k" * 32, b"u" * 32
KNOWN_ACCOUNT = "key:" + base64.b64encode(KNOWN).decode()


class Questions:
    """An authenticator that knows one key, and libzmq's side of it."""

    def __init__(self) -> None:
        self.context = zmq.asyncio.Context()
        self.fails = False
        self.authenticator = Authenticator(self.context, authorised=self._authorised)

    def _authorised(self, account: str) -> bool:
        if self.fails:
            raise OSError("the disk is full")
        return account == KNOWN_ACCOUNT


@pytest_asyncio.fixture
async def questions() -> AsyncIterator[Questions]:
    opened = Questions()
    yield opened
    opened.authenticator.close()
    opened.context.term()


def ask(
    domain: bytes,
    mechanism: bytes,
    *credentials: bytes,
    address: bytes = b"10.0.0.1",
    version: bytes = b"1.0",
) -> list[bytes]:
    return [version, b"1", domain, address, b"", mechanism, *credentials]


@pytest.mark.parametrize(
    ("request_", "account"),
    [
        (ask(b"tcp", b"CURVE", KNOWN), KNOWN_ACCOUNT),
        (ask(b"tcp", b"CURVE", UNKNOWN), None),
        (ask(b"tcp", b"CURVE", KNOWN[:31]), None),
        (ask(b"tcp", b"CURVE", KNOWN, b"more"), None),
        (ask(b"tcp", b"CURVE"), None),
        (ask(b"tcp", b"NULL"), None),
        (ask(b"tcp", b"NULL", address=b"host:0:0:1"), None),
        (ask(b"tcp", b"PLAIN", b"root", b"secret"), None),
        (ask(b"tcp", b"GSSAPI", b"root"), None),
        (ask(b"tcp", b"NULL", address=b"localhost:0:0:77"), None),
        (ask(b"unix", b"NULL", address=b"localhost:0:0:77"), None),
        (ask(b"unix", b"CURVE", KNOWN, address=b"localhost:0:0:77"), None),
        (ask(b"", b"NULL", address=b"localhost:0:0:77"), None),
        (ask(b"other", b"CURVE", KNOWN), None),
        (ask(b"tcp", b"CURVE", KNOWN, version=b"2.0"), None),
        ([b"1.0", b"1", b"tcp"], None),
        ([], None),
    ],
)
async def test_who_may_enter(questions: Questions, request_: list[bytes], account: str | None) -> None:
    assert questions.authenticator.decide(request_) == account


async def answer(questions: Questions, request: list[bytes]) -> list[bytes]:
    serving = asyncio.create_task(questions.authenticator.serve())
    with questions.context.socket(zmq.REQ) as libzmq:
        libzmq.connect(ENDPOINT)
        await libzmq.send_multipart(request)
        reply: list[bytes] = await libzmq.recv_multipart()
    serving.cancel()
    return reply


async def test_an_answer_carries_the_account(questions: Questions) -> None:
    reply = await answer(questions, ask(b"tcp", b"CURVE", KNOWN))
    assert reply == [b"1.0", b"1", b"200", b"OK", KNOWN_ACCOUNT.encode(), b""]


@pytest.mark.parametrize(
    ("request_", "fails"),
    [
        pytest.param(ask(b"tcp", b"CURVE", UNKNOWN), False, id="not authorised"),
        pytest.param(ask(b"tcp", b"CURVE", KNOWN), True, id="store fails"),
        pytest.param(ask(b"\xff", b"CURVE", KNOWN), False, id="not text"),
        pytest.param([b""], False, id="nothing"),
    ],
)
async def test_in_doubt_nobody_enters_and_the_next_one_may(
    questions: Questions, request_: list[bytes], fails: bool
) -> None:
    questions.fails = fails
    reply = await answer(questions, request_)
    assert (reply[0], reply[2], reply[4]) == (b"1.0", b"400", b"")
    questions.fails = False
    assert (await answer(questions, ask(b"tcp", b"CURVE", KNOWN)))[2] == b"200"


@pytest.mark.parametrize("stamped", [None, "", b"uid:0"])
async def test_a_message_without_an_account_is_nobodys(stamped: object) -> None:
    with pytest.raises(asyncio.InvalidStateError, match="without an authenticated account"):
        as_account(stamped)
