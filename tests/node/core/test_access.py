"""Who may reach whom: what each operation adds to the firewall and takes away, and that nothing is left of anybody."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.protocol.errors import InvalidArgument
from tfnz_node.core.access import (
    CLOSED,
    MAX_ANSWERS,
    OPEN,
    Access,
    Change,
    Egress,
    Element,
    Party,
    Permission,
    opening,
    plan_egress,
)

PARTIES = [Party(name, IPv4Address(f"10.200.0.{number}")) for number, name in enumerate("abcd", start=1)]
SERVER, CLIENT, OTHER, _ = PARTIES
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
PERMITTED = (IPv4Network("10.0.0.0/8"),)
NEVER = (IPv4Network("127.0.0.0/8"), IPv4Network("10.200.0.0/16"))


def allow(access: Access, permission: Permission) -> Change:
    change = access.allow(permission)
    access.commit_allow(permission)
    return change


def test_a_permission_is_one_element_or_one_for_each_protocol() -> None:
    assert allow(Access(), Permission(SERVER, CLIENT, None)).add == {
        Element("allowed", ("10.200.0.2", "10.200.0.1"))
    }
    assert allow(Access(), Permission(SERVER, CLIENT, 80)).add == {
        Element("tcp_ports", ("10.200.0.2", "10.200.0.1", "80")),
        Element("udp_ports", ("10.200.0.2", "10.200.0.1", "80")),
        Element("sctp_ports", ("10.200.0.2", "10.200.0.1", "80")),
    }


def test_to_allow_again_changes_names_only() -> None:
    access = Access()
    allow(access, Permission(SERVER, CLIENT, 80, ("db",)))
    assert not allow(access, Permission(SERVER, CLIENT, 80, ("db", "store")))
    assert access.find_server(CLIENT.id, "store") == SERVER.address
    assert len(access.permissions_of(CLIENT.id)) == 1


def test_a_port_or_all_are_withdrawn() -> None:
    access = Access()
    for port in (None, 80, 81):
        allow(access, Permission(SERVER, CLIENT, port))
    allow(access, Permission(SERVER, OTHER, 80))
    assert access.disallow(SERVER.id, CLIENT.id, 82) == []
    assert [one.port for one in access.disallow(SERVER.id, CLIENT.id, 80)] == [80]
    everything = access.disallow(SERVER.id, CLIENT.id, None)
    assert {one.port for one in everything} == {None, 80, 81}
    access.commit_withdrawal(everything)
    assert access.disallow(SERVER.id, CLIENT.id, None) == []
    assert [one.client for one in access.permissions_of(SERVER.id)] == [OTHER]
    assert access.permissions_of(CLIENT.id) == []


def test_names_are_the_client_s() -> None:
    access = Access()
    allow(access, Permission(SERVER, CLIENT, 80, ("db",)))
    assert access.find_server(CLIENT.id, "db") == SERVER.address
    assert access.find_server(SERVER.id, "db") is None
    assert access.find_server(OTHER.id, "db") is None


def test_a_name_is_known_while_anything_gives_it() -> None:
    access = Access()
    for permission in (
        Permission(SERVER, CLIENT, 80, ("db",)),
        Permission(SERVER, CLIENT, 81, ("db", "x")),
        Permission(OTHER, CLIENT, 80, ("db",)),
    ):
        allow(access, permission)
    access.commit_withdrawal(access.disallow(SERVER.id, CLIENT.id, 80))
    assert access.find_server(CLIENT.id, "db") == SERVER.address
    assert access.find_server(CLIENT.id, "x") == SERVER.address
    allow(access, Permission(SERVER, CLIENT, 81, ("db",)))
    assert access.find_server(CLIENT.id, "x") is None
    access.commit_forget(SERVER)
    assert access.find_server(CLIENT.id, "db") == OTHER.address
    access.commit_forget(OTHER)
    assert access.find_server(CLIENT.id, "db") is None


def test_a_policy_replaces_another_with_all_its_answers() -> None:
    access, address = Access(), CLIENT.address
    assert access.egress_of(address) == OPEN
    named = Egress(names=("example.org",))
    assert access.set_egress(address, named) == Change(remove=frozenset({Element("open", (str(address),))}))
    access.commit_egress(address, named)
    given = access.answer(address, [IPv4Address("8.8.8.8"), IPv4Address("8.8.8.8")])
    assert given == Change(add=frozenset({Element("answers", ("10.200.0.2", "8.8.8.8"))}))
    access.commit_answer(address, given)
    assert not access.answer(address, [IPv4Address("8.8.8.8")])
    networks = Egress(networks=(IPv4Network("10.1.0.0/16"),))
    assert access.set_egress(address, networks) == Change(
        add=frozenset({Element("egress", ("10.200.0.2", "10.1.0.0/16"))}), remove=given.add
    )
    access.commit_egress(address, networks)
    assert access.egress_of(address) == networks
    assert access.answer(address, [IPv4Address("8.8.8.8")]) == given


def test_the_oldest_answers_make_room() -> None:
    access, address = Access(), CLIENT.address
    first, last = (IPv4Address(f"8.0.0.{number}") for number in (1, 2))
    many = [IPv4Address("9.0.0.0") + number for number in range(MAX_ANSWERS - 1)]
    for some in ([first], many, [last]):
        change = access.answer(address, some)
        access.commit_answer(address, change)
    assert change.remove == {Element("answers", ("10.200.0.2", "8.0.0.1"))}
    everything = access.forget(CLIENT).remove
    assert sum(element.set == "answers" for element in everything) == MAX_ANSWERS


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("allow"), st.integers(0, 3), st.integers(0, 3), st.sampled_from([None, 80])),
        st.tuples(st.just("disallow"), st.integers(0, 3), st.integers(0, 3), st.sampled_from([None, 80])),
        st.tuples(st.just("egress"), st.integers(0, 3), st.sampled_from([OPEN, CLOSED]), st.none()),
        st.tuples(st.just("answer"), st.integers(0, 3), st.integers(1, 3), st.none()),
        st.tuples(st.just("forget"), st.integers(0, 3), st.none(), st.none()),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_what_is_removed_was_there_and_nothing_is_left(operations: list[tuple[object, ...]]) -> None:
    access = Access()
    elements = {element for party in PARTIES for element in opening(party.address).add}

    def apply(change: Change) -> None:
        assert change.remove <= elements
        elements.difference_update(change.remove)
        elements.update(change.add)

    def forget(party: Party) -> None:
        apply(access.forget(party))
        access.commit_forget(party)
        assert not [element for element in elements if str(party.address) in element.key]
        assert access.permissions_of(party.id) == []
        apply(opening(party.address))

    for kind, first, second, port in operations:
        assert isinstance(first, int)
        party = PARTIES[first]
        if kind == "allow" and second != first:
            apply(allow(access, Permission(party, PARTIES[second], port)))  # type: ignore[call-overload, arg-type]
        elif kind == "disallow":
            found = access.disallow(party.id, PARTIES[second].id, port)  # type: ignore[call-overload, arg-type]
            apply(Change(remove=frozenset(element for one in found for element in one.elements())))
            access.commit_withdrawal(found)
        elif kind == "egress":
            assert isinstance(second, Egress)
            apply(access.set_egress(party.address, second))
            access.commit_egress(party.address, second)
        elif kind == "answer":
            change = access.answer(party.address, [IPv4Address(f"8.8.8.{second}")])
            apply(change)
            access.commit_answer(party.address, change)
        elif kind == "forget":
            forget(party)
    for party in PARTIES:
        forget(party)
    assert elements == {element for party in PARTIES for element in opening(party.address).add}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["open"], OPEN),
        ([], CLOSED),
        (["8.8.8.8"], Egress(networks=(IPv4Network("8.8.8.8/32"),))),
        (["10.1.0.0/17", "10.1.128.0/17", "10.1.2.0/24"], Egress(networks=(IPv4Network("10.1.0.0/16"),))),
        (["Example.org.", "example.org", "*.a-b.de"], Egress(names=("example.org", "*.a-b.de"))),
        (["1and1.com"], Egress(names=("1and1.com",))),
        # What is private in them, the firewall knows.
        (["0.0.0.0/0"], Egress(networks=(IPv4Network("0.0.0.0/0"),))),
        (["172.0.0.0/8"], Egress(networks=(IPv4Network("172.0.0.0/8"),))),
    ],
)
def test_a_policy_is_planned(asked: list[str], expected: Egress) -> None:
    assert plan_egress(asked, private=PRIVATE, permitted=PERMITTED, forbidden=NEVER) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["open", "8.8.8.8"], "use .open., .none., or a list"),
        (["8.8.8.8/33"], "is no IPv4 network"),
        (["8.8.8"], "is no IPv4 network"),
        (["8.8.8.8/24"], "an address within 8.8.8.0/24; give that, or 8.8.8.8 alone"),
        (["10.1.2.3/255.255.255.0"], "an address within 10.1.2.0/24"),
        (["127.0.0.1"], "no container may reach 127.0.0.0/8"),
        (["10.0.0.0/8"], "no container may reach 10.200.0.0/16"),
        (["192.168.1.0/24"], "no private network but 10.0.0.0/8"),
        (["172.16.0.0/12"], "no private network but 10.0.0.0/8"),
        (["a b"], "use"),
        (["*"], "use"),
        (["a..b"], "use"),
        (["*.*.org"], "use"),
        (["ä.org"], "use"),
        (["a" * 64], "use"),
        ([f"a{number}.org" for number in range(257)], "at most"),
        ([f"{number:063}.{'a' * 63}.{'b' * 63}.org" for number in range(200)], "bytes together"),
    ],
)
def test_a_policy_that_cannot_be(asked: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        plan_egress(asked, private=PRIVATE, permitted=PERMITTED, forbidden=NEVER)


def test_which_names_a_policy_allows() -> None:
    egress = Egress(names=("example.org", "*.example.net"))
    assert egress.allows_name("example.org")
    assert egress.allows_name("a.b.example.net")
    for name in ("www.example.org", "example.net", "evilexample.net", "org", ""):
        assert not egress.allows_name(name), name
    assert OPEN.allows_name("anything")
    assert egress.describe() == ["example.org", "*.example.net"]
