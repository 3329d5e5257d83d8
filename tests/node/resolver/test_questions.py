"""What becomes of a question: by whom it is answered, and what is made of an answer."""

from __future__ import annotations

from ipaddress import IPv4Address

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz_node.core.access import CLOSED, OPEN, Egress
from tfnz_node.resolver.questions import (
    Decision,
    Verdict,
    answers,
    decide,
    fail,
    find_addresses,
    parse_question,
)

NAMED = Egress(names=("example.org",))


def ask(name: str, kind: str = "A") -> dns.message.Message:
    question = parse_question(dns.message.make_query(name, kind).to_wire())
    assert question is not None
    return question


def find_server(name: str) -> IPv4Address | None:
    return IPv4Address("10.200.0.1") if name in ("db", "db.example.org") else None


def decided(name: str, kind: str, egress: Egress) -> Decision:
    return decide(ask(name, kind), egress, find_server)


@pytest.mark.parametrize("egress", [OPEN, CLOSED, NAMED])
@pytest.mark.parametrize("name", ["db", "DB", "db.example.org"])
def test_whoever_may_connect_to_a_container_finds_it(name: str, egress: Egress) -> None:
    answer = dns.message.from_wire(decided(name, "A", egress).answer)
    assert [str(record) for record in answer.answer[0]] == ["10.200.0.1"]
    assert answer.answer[0].ttl == 0
    assert answer.rcode() == dns.rcode.NOERROR
    # It has no other addresses, which is not to say that it does not exist.
    answer = dns.message.from_wire(decided(name, "AAAA", egress).answer)
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])


@pytest.mark.parametrize(
    ("name", "kind", "egress", "verdict", "code"),
    [
        ("web", "A", OPEN, Verdict.ANSWER, dns.rcode.NXDOMAIN),
        ("web", "AAAA", CLOSED, Verdict.ANSWER, dns.rcode.NXDOMAIN),
        ("example.org", "A", OPEN, Verdict.PASS, None),
        ("example.org", "AAAA", OPEN, Verdict.PASS, None),
        (".", "NS", OPEN, Verdict.PASS, None),
        ("example.org", "A", CLOSED, Verdict.ANSWER, dns.rcode.REFUSED),
        ("example.org", "TXT", CLOSED, Verdict.ANSWER, dns.rcode.REFUSED),
        ("EXAMPLE.ORG", "A", NAMED, Verdict.PASS_AND_OPEN, None),
        ("example.org", "AAAA", NAMED, Verdict.ANSWER, dns.rcode.NOERROR),
        ("example.org", "MX", NAMED, Verdict.PASS, None),
        ("www.example.org", "A", NAMED, Verdict.ANSWER, dns.rcode.REFUSED),
        ("4.3.2.1.in-addr.arpa", "PTR", NAMED, Verdict.ANSWER, dns.rcode.REFUSED),
    ],
)
def test_other_names(
    name: str, kind: str, egress: Egress, verdict: Verdict, code: dns.rcode.Rcode | None
) -> None:
    decision = decided(name, kind, egress)
    assert decision.verdict is verdict
    if code is not None:
        question = ask(name, kind)
        answer = dns.message.from_wire(decide(question, egress, find_server).answer)
        assert (answer.rcode(), answer.answer) == (code, [])
        assert question.is_response(answer)


def test_when_nobody_answers_it_is_said() -> None:
    assert dns.message.from_wire(fail(ask("example.org"))).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 11,
        b"\0" * 12,
        dns.message.make_response(dns.message.make_query("a.b", "A", id=1)).to_wire(),
        dns.message.make_query("a.b", "A", id=1).to_wire()[:-3],
        b"\0\0\x01\0\0\2\0\0\0\0\0\0" + b"\1a\0\0\1\0\1" * 2,
        b"\0\0\x28\0\0\1\0\0\0\0\0\0\1a\0\0\6\0\1",  # an update
        b"\0\0\x01\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",  # a name that is its own end
        b"\0\0\x01\0\0\1\0\0\0\0\0\0\3a.b\0\0\1\0\1",  # one label that looks like two
    ],
)
def test_what_is_no_question_is_not_answered(data: bytes) -> None:
    assert parse_question(data) is None


@given(st.binary(max_size=200))
def test_rubbish_harms_nobody(data: bytes) -> None:
    for one in (data, b"\0\0\x01\0\0\1\0\0\0\0\0\0" + data):
        question = parse_question(one)
        if question is not None:
            decide(question, NAMED, find_server)
    assert find_addresses(ask("example.org"), data) == []


def reply(question: dns.message.Message, *records: str) -> bytes:
    answer = dns.message.make_response(question)
    for record in records:
        name, kind, *values = record.split()
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *values))
    return answer.to_wire()


def test_addresses_are_those_of_the_name_that_was_asked_for() -> None:
    question = ask("www.example.org")
    given_by: tuple[tuple[str, list[str]], ...] = (
        ("www.example.org. A 8.8.8.8 9.9.9.9", ["8.8.8.8", "9.9.9.9"]),
        ("other.org. A 8.8.8.8", []),
        ("www.example.org. AAAA ::1", []),
    )
    for record, expected in given_by:
        found = find_addresses(question, reply(question, record))
        assert sorted(map(str, found)) == expected
    chain = reply(
        question, "www.example.org. CNAME example.org.", "example.org. A 8.8.8.8", "evil.org. A 9.9.9.9"
    )
    assert find_addresses(question, chain) == [IPv4Address("8.8.8.8")]
    circle = reply(question, "www.example.org. CNAME a.org.", "a.org. CNAME www.example.org.")
    assert find_addresses(question, circle) == []
    assert (
        find_addresses(question, reply(ask("www.example.org"), "www.example.org. A 8.8.8.8")) == []
    )  # its number


def test_an_answer_has_the_question_s_number() -> None:
    question = dns.message.make_query("example.org", "A")
    wire = question.to_wire()
    answer = dns.message.make_response(question).to_wire()
    assert answers(wire, answer)
    assert not answers(wire, wire)
    assert not answers(wire, answer[:11])
    assert not answers(b"\0\0" + wire[2:], b"\1\1" + answer[2:])
