"""What containers ask for names, and what is answered to them: everything has an answer of ours, or none at all."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import dns.message

from tests.fuzz.bytes_reader import BytesReader
from tfnz_node.core.access import CLOSED, OPEN, Egress
from tfnz_node.resolver.questions import Verdict, answers, decide, fail, find_addresses, parse_question

SERVER = IPv4Address("10.200.0.1")
POLICIES = (
    OPEN,
    CLOSED,
    Egress(networks=(IPv4Network("192.0.2.0/24"),), names=("example.org", "*.example.com")),
)


def run(data: bytes) -> None:
    reader = BytesReader(data)
    asked = reader.take(reader.short())
    answer = reader.rest()
    question = parse_question(asked)
    if question is None:
        return
    for egress in POLICIES:
        decision = decide(question, egress, lambda name: SERVER if name == "db" else None)
        if decision.verdict is Verdict.ANSWER:
            check(asked, decision.answer)
        else:
            # What goes outside is there because somebody may ask for it.
            assert egress.open or egress.names
    check(asked, fail(question))
    for address in find_addresses(question, answer):
        assert isinstance(address, IPv4Address)


def check(asked: bytes, answer: bytes) -> None:
    """It is an answer to that question, and can be read."""
    assert answers(asked, answer)
    dns.message.from_wire(answer)
