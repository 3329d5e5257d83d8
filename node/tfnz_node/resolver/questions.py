"""What to do about a container's question for a name: pure, and wary of whoever asks and of whoever answers."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tfnz_node.core.access import Egress

#: Names of containers may go and come at any moment.
OWN_TTL_S = 0
_ADDRESSES = frozenset({dns.rdatatype.A, dns.rdatatype.AAAA})


class Verdict(enum.Enum):
    """What becomes of a question."""

    ANSWER = "answer"  # by us, with what is there
    PASS = "pass"  # to the node's own resolvers, and back as it comes
    PASS_AND_OPEN = "pass and open"  # the same, and the container may reach what is answered


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and our own answer where we are to give one."""

    verdict: Verdict
    answer: bytes = b""


def parse_question(data: bytes) -> dns.message.Message | None:
    """A question as one can be asked, or None for anything else, which is not worth an answer."""
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, KeyError, IndexError):
        return None
    if message.flags & dns.flags.QR or len(message.question) != 1 or message.opcode() != 0:
        return None
    if any(b"." in label for label in message.question[0].name.labels):
        return None  # written out, it would look like another name
    return message


def decide(
    question: dns.message.Message, egress: Egress, find_server: Callable[[str], IPv4Address | None]
) -> Decision:
    """What to do about a question.

    Args:
        egress: what the container may reach outside.
        find_server: whom it may connect to by a name.
    """
    asked = question.question[0]
    name = spell(asked.name)
    server = find_server(name)
    if server is not None:
        return Decision(Verdict.ANSWER, _answer(question, server))
    if "." not in name and asked.rdtype in _ADDRESSES:
        # A word alone is the name of a container, and nobody outside needs to hear of it.
        return Decision(Verdict.ANSWER, _refuse(question, dns.rcode.NXDOMAIN))
    if egress.open:
        return Decision(Verdict.PASS)
    if not egress.allows_name(name):
        return Decision(Verdict.ANSWER, _refuse(question, dns.rcode.REFUSED))
    if asked.rdtype == dns.rdatatype.AAAA:
        return Decision(Verdict.ANSWER, _refuse(question, dns.rcode.NOERROR))
    return Decision(Verdict.PASS_AND_OPEN if asked.rdtype == dns.rdatatype.A else Verdict.PASS)


def fail(question: dns.message.Message) -> bytes:
    """The answer when nobody has one."""
    return _refuse(question, dns.rcode.SERVFAIL)


def find_addresses(question: dns.message.Message, answer: bytes) -> list[IPv4Address]:
    """The addresses that an answer gives for the very name that was asked for, by way of its aliases."""
    try:
        message = dns.message.from_wire(answer, ignore_trailing=True)
        if not isinstance(message, dns.message.QueryMessage) or not question.is_response(message):
            return []
        chain = message.resolve_chaining()
    except (dns.exception.DNSException, ValueError, KeyError, IndexError):
        return []
    if chain.answer is None or chain.answer.rdtype != dns.rdatatype.A:
        return []
    return [IPv4Address(record.address) for record in chain.answer]


def answers(question: bytes, answer: bytes) -> bool:
    """Whether this is an answer to a question, as far as the first bytes and the question itself tell."""
    return len(answer) >= 12 and answer[:2] == question[:2] and bool(answer[2] & 0x80)


def spell(name: dns.name.Name) -> str:
    """A name in lower case, without a dot at its end."""
    return name.to_text(omit_final_dot=True).lower()


def _answer(question: dns.message.Message, server: IPv4Address) -> bytes:
    reply = _begin(question)
    asked = question.question[0]
    if asked.rdtype in (dns.rdatatype.A, dns.rdatatype.ANY) and asked.rdclass == dns.rdataclass.IN:
        reply.answer.append(dns.rrset.from_text(asked.name, OWN_TTL_S, "IN", "A", str(server)))
    return reply.to_wire()


def _refuse(question: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
    reply = _begin(question)
    reply.set_rcode(code)
    return reply.to_wire()


def _begin(question: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(question, recursion_available=True)
    reply.use_edns(-1)
    return reply
