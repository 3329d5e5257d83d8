"""Against packets that should not pass, and connections without end."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.protections.removal import Edit, Input, Removal, taken_away

RULES: Final = "node/tfnz_node/firewall/ruleset.py"
ROUTED: Final = "node/tfnz_node/links/routed.py"
RESOLVER: Final = "node/tfnz_node/resolver"
ACCESS: Final = "node/tfnz_node/core/access.py"
TESTS: Final = "tests/node/firewall"
MATRIX: Final = f"{TESTS}/test_matrix.py"
CONNECTIONS: Final = f"{TESTS}/test_connections.py"

_network = partial(taken_away, input=Input.NETWORK)

REMOVALS: Final[tuple[Removal, ...]] = (
    Removal(
        "spoofed-sender",
        Input.NETWORK,
        "A container does not send in another's name: the firewall and the wire's own filter look, either is enough.",
        (
            Edit(RULES, "        fib saddr . mark . iif oif missing drop\n", ""),
            Edit(ROUTED, "    rt.IPV4_DEVCONF_RP_FILTER: 1,", "    rt.IPV4_DEVCONF_RP_FILTER: 0,"),
        ),
        (f"{MATRIX}::test_nobody_pretends_to_be_another",),
    ),
    _network(
        "spoofed-container-from-outside",
        stops="Nobody outside sends with a container's address, to be let in as the answer.",
        file=RULES,
        old="        {others} ip saddr {lan.network} drop\n",
        new="",
        tests=(f"{MATRIX}::test_nobody_outside_pretends_to_be_a_container",),
    ),
    _network(
        "default-between-containers",
        stops="A container reaches no other that it is not allowed to.",
        file=RULES,
        old="proto-dst 53 goto asking\n        drop\n",
        new="proto-dst 53 goto asking\n        goto passing\n",
        tests=(f"{MATRIX}::test_who_reaches_what_by_default",),
    ),
    _network(
        "default-to-the-outside",
        stops="A container whose egress is closed reaches nothing outside.",
        file=RULES,
        old="        {_PAIR} @answers goto passing\n        drop\n",
        new="        {_PAIR} @answers goto passing\n        goto passing\n",
        tests=(f"{MATRIX}::test_egress", f"{MATRIX}::test_who_reaches_what_when_it_is_allowed"),
    ),
    _network(
        "private-egress",
        stops="A container reaches no private network unless its policy names it.",
        file=RULES,
        old="        ct original ip daddr {{ {_join(PRIVATE)} }} drop\n",
        new="",
        tests=(f"{MATRIX}::test_who_reaches_what_by_default",),
    ),
    _network(
        "private-egress-unpermitted",
        stops="However large the network that a policy names, what the node does not permit of it stays closed.",
        file=RULES,
        old="{unpermitted}        {_PAIR} @egress",
        new="        {_PAIR} @egress",
        tests=(f"{MATRIX}::test_egress",),
    ),
    _network(
        "private-egress-asked",
        stops="A policy that names what the node does not permit is refused.",
        file=ACCESS,
        old="    if is_private and not any(network.subnet_of(one) for one in permitted):",
        new="    if False:",
        tests=("tests/node/core/test_access.py::test_a_policy_that_cannot_be",),
    ),
    Removal(
        "host-and-metadata",
        Input.NETWORK,
        "No address of the link and so no metadata service is reached; two rules, either is enough.",
        (
            Edit(RULES, "        ip daddr {{ {_join(NEVER)} }} drop\n", ""),
            Edit(RULES, "        ct original ip daddr {{ {_join((*NEVER, lan.network))} }} drop\n", ""),
        ),
        (f"{MATRIX}::test_who_reaches_what_by_default",),
    ),
    Removal(
        "host",
        Input.NETWORK,
        "The host is reached by none of its addresses; two rules, either is enough.",
        (
            Edit(RULES, "        fib daddr type != unicast drop\n", ""),
            Edit(RULES, "        {ours} drop\n    }}\n    chain from_host", "    }}\n    chain from_host"),
        ),
        (f"{MATRIX}::test_who_reaches_what_by_default",),
    ),
    _network(
        "ports-of-others",
        stops="A port that others translate, as docker does, leads nowhere.",
        file=RULES,
        old="        {ours} ct status dnat drop\n",
        new="",
        tests=(f"{MATRIX}::test_ports_that_others_translate_lead_nowhere",),
    ),
    _network(
        "protocols-without-ports",
        stops="Nothing leaves by a protocol that cannot be told apart behind the host's address.",
        file=RULES,
        old="        meta l4proto != {{ tcp, udp, icmp, sctp }} drop\n",
        new="",
        tests=(
            f"{MATRIX}::test_who_reaches_what_by_default",
            f"{TESTS}/test_openness.py::test_everything_that_is_not_allowed",
        ),
    ),
    _network(
        "errors-of-others",
        stops="That a connection has failed is told only by one of the two that it is between.",
        file=RULES,
        old="        meta l4proto icmp ct state related goto failing\n",
        new="        meta l4proto icmp ct state related goto passing\n",
        tests=(f"{MATRIX}::test_nobody_tells_of_errors_of_connections_that_are_others",),
    ),
    _network(
        "judged-way",
        stops="A packet goes where it was judged to go, whatever routes others have made.",
        file=RULES,
        old="        {ours} oifgroup != {lan.group} ip daddr {lan.network} drop\n",
        new="",
        tests=(f"{MATRIX}::test_that_a_packet_goes_where_it_was_judged_to_go_matters",),
    ),
    _network(
        "flush-of-all-rules",
        stops="A flush of all rules, by whomever, passes the table by.",
        file=RULES,
        old="create table inet {lan.table} {{ flags owner; }}\ntable inet {lan.table} {{\n    flags owner;\n",
        new="create table inet {lan.table}\ntable inet {lan.table} {{\n",
        tests=(
            f"{MATRIX}::test_a_flush_of_all_rules_changes_nothing",
            f"{TESTS}/test_nftables.py::test_it_goes_with_the_process_that_owns_it",
        ),
    ),
    _network(
        "closed-without-the-table",
        stops="Without the firewall there is no way to a container.",
        file=ROUTED,
        old="    return rt.Rule(PRIORITY, network, Lan(network).mark, MARK_MASK, TABLE, PROTOCOL)",
        new="    return rt.Rule(PRIORITY, network, 0, 0, TABLE, PROTOCOL)",
        tests=(f"{MATRIX}::test_without_the_firewall_nothing_passes",),
    ),
    _network(
        "connections-at-once",
        stops="A container has no more connections at once than its part of the host's table.",
        file=RULES,
        old="        add @connected {{ ip saddr ct count over {connections} }} add @full {{ ip saddr }} drop\n",
        new="",
        tests=(
            f"{CONNECTIONS}::test_a_flood_is_stopped_at_the_bound_and_others_connect",
            f"{CONNECTIONS}::test_of_every_kind_together",
        ),
    ),
    _network(
        "connections-in-a-second",
        stops="A container begins no more connections in a second than it may have.",
        file=RULES,
        old="        update @opening {{",
        new="        # update @opening {{",
        tests=(f"{CONNECTIONS}::test_the_pace_matters",),
    ),
    _network(
        "connections-that-have-ended",
        stops="What an ended connection leaves in the host's table is soon gone.",
        file=RULES,
        old='        meta l4proto tcp ct timeout set "ended"\n',
        new="",
        tests=(f"{CONNECTIONS}::test_a_connection_that_has_ended_is_soon_forgotten",),
    ),
    _network(
        "connections-of-the-heir",
        stops="What one container began is not answered to the next with its address.",
        file=ROUTED,
        old="                )\n        delete_connections(network)\n",
        new="                )\n",
        tests=(f"{MATRIX}::test_what_one_began_is_not_answered_to_the_next_with_its_address",),
    ),
    _network(
        "questions-of-one",
        stops="One container cannot have the whole resolver.",
        file=f"{RESOLVER}/server.py",
        old="        may = self._under_way[client] < QUESTIONS_AT_ONCE",
        new="        may = True",
        tests=("tests/node/resolver/test_server.py::test_one_container_cannot_have_everything",),
    ),
    _network(
        "questions-too-many",
        stops="Who asks the resolver too much is not heard for a while.",
        file=RULES,
        old="        ct direction original update @asking {{ ip saddr {_QUESTIONS} }} drop\n",
        new="",
        tests=(f"{MATRIX}::test_who_asks_too_much_is_not_heard_for_a_while",),
    ),
    _network(
        "answers-to-others",
        stops="The answer to another question opens nothing, and is not passed on.",
        file=f"{RESOLVER}/questions.py",
        old="    return len(answer) >= 12 and answer[:2] == question[:2] and bool(answer[2] & 0x80)",
        new="    return True",
        tests=(
            "tests/node/resolver/test_upstream.py::test_the_answer_to_another_question_is_not_taken",
            "tests/node/resolver/test_questions.py::test_an_answer_has_the_question_s_number",
        ),
    ),
    _network(
        "answers-without-end",
        stops="What names stand for opens a bounded number of addresses.",
        file=ACCESS,
        old="        surplus = len(known) + len(new) - MAX_ANSWERS\n",
        new="        surplus = 0\n",
        tests=("tests/node/core/test_access.py::test_the_oldest_answers_make_room",),
    ),
    _network(
        "names-that-look-like-others",
        stops="A label with a dot in it is not taken for another name.",
        file=f"{RESOLVER}/questions.py",
        old='    if any(b"." in label for label in message.question[0].name.labels):',
        new="    if False:",
        tests=("tests/node/resolver/test_questions.py::test_what_is_no_question_is_not_answered",),
    ),
    _network(
        "quota-permissions",
        stops="An account has as many permissions as its quota.",
        file="node/tfnz_node/supervisor/network.py",
        old="        if 0 < self._permissions_quota <= count:",
        new="        if False:",
        tests=("tests/node/handlers/test_firewall.py::test_an_account_has_as_many_permissions_as_its_quota",),
    ),
    _network(
        "egress-of-the-heir",
        stops="What a container may reach is not left to the next with its address.",
        file=ACCESS,
        old="[*mine, _member(party.address), *self._outside(party.address)]",
        new="[*mine, _member(party.address)]",
        tests=(
            "tests/node/supervisor/test_network.py::test_the_egress_of_a_container_is_not_its_heir_s",
            "tests/node/core/test_access.py::test_what_is_removed_was_there_and_nothing_is_left",
        ),
    ),
)
