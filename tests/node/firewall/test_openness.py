"""Whatever is done to the host, and however short: no packet that is forbidden ever arrives."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.node.firewall.lab import ADDRESSES, LAN, PERMITTED, Lab
from tests.node.firewall.survey import KINDS, Probe, Siege, every, ipv6_of, survey
from tests.node.firewall.test_matrix import (
    BROADCAST,
    OUTWARD,
    hears_what_is_for_all,
    no_rp_filter,
    without,
)
from tests.system.waiting import SOON_S, wait_for
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.nftables import NftablesFirewall, Render
from tfnz_node.firewall.ruleset import render_table

#: Who is not a container's own has no business as its sender.
SENDERS = ("", "server", "client", "host", "public", "nobody", "127.0.0.1")
INSIDE = ("server", "client", "stranger", "resolver")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab that every test leaves as it was."""
    with Lab() as made:
        yield made


# --- everybody to everybody, at once


def test_everything_that_is_not_allowed(lab: Lab) -> None:
    sent = every(INSIDE, (*INSIDE, "host", "private", "closed", "metadata"), senders=SENDERS)
    sent += every(("host", "outside"), INSIDE)
    sent += every(("outside",), INSIDE, senders=(*INSIDE, "host", "public"))
    sent += every(("stranger",), ("public", "outside"), senders=SENDERS[1:])
    sent += every(("stranger",), ("public", "outside"), versions=(6,))
    assert survey(lab, sent) == set()


def test_everything_that_is_allowed_and_no_more(lab: Lab) -> None:
    sent = every(INSIDE, INSIDE, senders=SENDERS)
    with lab.allowed():
        assert survey(lab, sent) == {Probe("client", "server", kind) for kind in KINDS}
    with lab.allowed(port=5432):
        assert survey(lab, sent) == {Probe("client", "server", kind) for kind in KINDS if kind != "icmp"}
    assert survey(lab, sent) == set()
    assert survey(lab, every(("client",), ("public", "outside"))) == {
        Probe("client", target, kind) for target in ("public", "outside") for kind in OUTWARD
    }


# --- what each protection is good for


def switch_ipv6_on(lab: Lab, *, host: bool) -> None:
    """Have every place have an address of IPv6, and the host, perhaps, pass packets between them."""
    for place in (*INSIDE, "outside"):
        interface = "eth0"
        lab.set(place, f"ipv6/conf/{interface}/disable_ipv6", "0")
        lab.run(
            place,
            "ip",
            "-6",
            "address",
            "add",
            f"{ipv6_of(lab.address(place))}/128",
            "dev",
            interface,
            "nodad",
        )
    for place in INSIDE:
        wire = LAN.interface(IPv4Address(ADDRESSES[place]))
        if host:
            lab.set("host", f"ipv6/conf/{wire}/disable_ipv6", "0")
            lab.run("host", "ip", "-6", "route", "add", ipv6_of(lab.address(place)), "dev", wire)
    if host:
        lab.run("host", "ip", "-6", "address", "add", f"{ipv6_of(lab.address('host'))}/128", "dev", "lo")
        lab.set("host", "ipv6/conf/all/forwarding", "1")
        wait_for(
            lambda: (
                ipv6_of(lab.address("host")) in lab.run("host", "ip", "-6", "route", "show", "table", "local")
            ),
            SOON_S,
            "the host has no address",
        )


def test_by_ipv6_nothing_passes_though_it_be_switched_on() -> None:
    sent = every(INSIDE, (*INSIDE, "host"), versions=(6,))
    for host in (False, True):
        with Lab() as lab, lab.allowed():
            switch_ipv6_on(lab, host=host)
            assert survey(lab, sent) == set()


def test_to_refuse_ipv6_matters() -> None:
    sent = every(("stranger",), ("server", "host"), versions=(6,))
    with Lab(without("nfproto != ipv4", "fib saddr", "iifgroup .* goto between", "iifgroup .* drop$")) as lab:
        switch_ipv6_on(lab, host=False)
        assert survey(lab, sent) == set()  # it is switched off on the host, too
    with Lab(
        without(
            "nfproto != ipv4",
            "fib saddr",
            "fib daddr",
            "iifgroup .* goto (between|outside)",
            "iifgroup .* drop$",
        )
    ) as lab:
        switch_ipv6_on(lab, host=True)
        assert survey(lab, sent) == set(sent)


def test_to_look_at_senders_matters() -> None:
    sent = every(("stranger",), ("server",), senders=("client",), versions=(4,))
    with Lab(without("fib saddr")) as lab, lab.allowed():
        no_rp_filter(lab)
        assert survey(lab, sent) == set(sent)


#: In the order in which the kernel takes them away; what translates is not there to close anything.
HOOKS = ("judging", "arriving", "forwarding", "to_host", "from_host")


def find_stages() -> list[tuple[str, ...]]:
    """What hooks a packet may come by while the kernel takes them away: a later one when more of them are gone."""
    stages = set()
    for gone in itertools.combinations_with_replacement(range(len(HOOKS) + 1), 3):
        there = [HOOKS[number:] for number in gone]
        arriving, judging, rest = (set(hooks) for hooks in there)
        met = arriving & {"arriving"} | judging & {"judging"} | rest & {"forwarding", "to_host", "from_host"}
        stages.add(tuple(hook for hook in HOOKS if hook in met))
    return sorted(stages)


def only(*hooks: str) -> Render:
    """The table with these hooks, as a packet meets it."""

    def render(lan: Lan, permitted: tuple[IPv4Network, ...], connections: int) -> str:
        text = render_table(lan, permitted, connections)
        for gone in set(HOOKS) - set(hooks):
            text, count = re.subn(rf"(chain {gone} \{{\n) .*?hook .*?; policy accept;\n", r"\1", text)
            assert count == 1
        return text

    return render


@pytest.mark.parametrize("hooks", find_stages(), ids=" ".join)
def test_a_packet_that_is_on_its_way_when_the_table_goes_is_judged_or_gets_nowhere(
    hooks: tuple[str, ...],
) -> None:
    with Lab(only(*hooks)) as lab, lab.allowed():
        assert survey(lab, FORBIDDEN) == set()
        assert (survey(lab, ALLOWED) == set()) is ("judging" not in hooks)


def test_what_is_for_all_of_a_network_of_the_host_is_not_judged_by_one_hook_alone() -> None:
    with Lab(only("judging", "arriving")) as lab:
        assert not hears_what_is_for_all(lab, BROADCAST)

    def render(lan: Lan, permitted: tuple[IPv4Network, ...], connections: int) -> str:
        return only("judging", "arriving")(lan, permitted, connections).replace(
            "type != unicast", "type local"
        )

    with Lab(render) as lab:
        assert hears_what_is_for_all(lab, BROADCAST)


def test_the_kernel_takes_away_first_what_marks() -> None:
    with Lab() as lab:
        listed = lab.run("host", "nft", "list", "table", "inet", LAN.table)
    hooks = re.findall(r"chain (\w+) \{\n\t*type .* hook", listed)
    assert tuple(hook for hook in hooks if hook != "translating") == HOOKS


def test_to_mark_only_what_was_judged_matters() -> None:
    """As it once was: whatever came from a container had the mark from the beginning."""

    def render(lan: Lan, permitted: tuple[IPv4Network, ...], connections: int) -> str:
        lines = only("arriving")(lan, permitted, connections).splitlines(keepends=True)
        return "".join(line for line in lines if not re.fullmatch(r" +meta mark set meta mark & \w+\n", line))

    with Lab(render) as lab:
        assert survey(lab, FORBIDDEN) != set()


# --- all the time

FORBIDDEN = [
    *every(("stranger",), ("server", "client", "host", "private", "metadata")),
    *every(("stranger",), ("server", "public"), senders=("client",)),
    *every(("client",), ("host", "private"), versions=(4,)),
    *every(("server",), ("client",)),
    *every(("host", "outside"), ("server",)),
    *every(("outside",), ("server",), senders=("client", "resolver"), versions=(4,)),
]
ALLOWED = [*every(("client",), ("server",), versions=(4,)), Probe("client", "public", "udp")]

WIRES = {name: LAN.interface(IPv4Address(ADDRESSES[name])) for name in INSIDE}


def flush_ruleset(lab: Lab) -> None:
    lab.run("host", "nft", "flush", "ruleset")
    with pytest.raises(subprocess.CalledProcessError):
        lab.run("host", "nft", "delete", "table", "inet", LAN.table)


def restart_firewall(lab: Lab) -> None:
    """As when the daemon dies, and another begins."""
    lab.on_host(lab.firewall.close)


def stand_up_again(lab: Lab) -> None:
    if "tfnz" not in lab.run("host", "nft", "list", "tables"):
        lab.firewall = lab.on_host(
            lambda: NftablesFirewall(LAN, permitted=PERMITTED, connections=4096, render=render_table)
        )
        lab.reopen()
    if "lookup main" not in lab.run("host", "ip", "rule"):
        lab.run("host", "ip", "rule", "add", "lookup", "main", "priority", "32766")
    lab.on_host(lab.links.repair_all)


def command(*words: str) -> Callable[[Lab], None]:
    def work(lab: Lab) -> None:
        lab.run("host", *words)

    return work


DAMAGE: dict[str, Callable[[Lab], None]] = {
    "the ruleset is flushed": flush_ruleset,
    "the firewall is gone": restart_firewall,
    "a server's wire is removed": command("ip", "link", "delete", WIRES["server"]),
    "a stranger's wire is removed": command("ip", "link", "delete", WIRES["stranger"]),
    "a server's wire is set down": command("ip", "link", "set", WIRES["server"], "down"),
    "a stranger's wire is set down": command("ip", "link", "set", WIRES["stranger"], "down"),
    "a wire is taken out of its group": command("ip", "link", "set", WIRES["stranger"], "group", "default"),
    "all rules for routes are removed": command("ip", "rule", "flush"),
    "our routes are removed": command("ip", "route", "flush", "table", "2020"),
    "the route to nowhere is removed": command("ip", "route", "delete", "unreachable", str(LAN.network)),
}


def test_it_is_never_open_in_the_middle_of_it() -> None:
    with Lab() as lab, lab.allowed(), Siege(lab, FORBIDDEN, ALLOWED) as siege:
        siege.until_allowed_arrive()
        for what, damage in DAMAGE.items():
            for _ in range(3):
                damage(lab)
                siege.go_on()
                stand_up_again(lab)
            assert siege.breaches == {}, what
            if "group" in what:
                lab.run("host", "ip", "link", "set", WIRES["stranger"], "group", str(LAN.group))
            siege.until_allowed_arrive()
        siege.go_on()
    assert siege.breaches == {}


def test_a_moment_of_openness_would_be_noticed() -> None:
    """The mark is what closes when the firewall is gone."""
    with Lab() as lab, lab.allowed(), Siege(lab, FORBIDDEN, ALLOWED) as siege:
        lab.run("host", "ip", "rule", "add", "to", str(LAN.network), "lookup", "2020", "priority", "2019")
        siege.go_on()
        assert siege.breaches == {}
        lab.on_host(lab.firewall.close)
        siege.go_on()
        assert Probe("stranger", "server", "udp") in siege.breaches
        assert Probe("stranger", "host", "sctp") in siege.breaches
        stand_up_again(lab)
