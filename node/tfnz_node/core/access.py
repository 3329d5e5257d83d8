"""Who may reach whom: rules between containers and what each may reach outside, and the elements of sets they become.

Pure. An operation is planned, its `Change` applied to the firewall, and then taken down with `commit`; whoever does so
does it one at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, collapse_addresses
from typing import Final, Literal, TypeAlias

from tfnz.protocol.errors import InvalidArgument

#: The firewall's sets. `allowed` has client and server; `tcp_ports` and its like those and a port; `members` the
#: address of each container, twice; `open` who may reach the outside; `egress` a container and a network that it
#: may reach, `answers` an address that its names stand for.
SetName: TypeAlias = Literal[
    "allowed", "tcp_ports", "udp_ports", "sctp_ports", "members", "open", "egress", "answers"
]
#: What a port without a protocol is a port of.
PORT_SETS: Final[dict[str, SetName]] = {"tcp": "tcp_ports", "udp": "udp_ports", "sctp": "sctp_ports"}
#: Of an account's own making, so there is an end to it.
MAX_NETWORKS: Final = 256
MAX_NAMES: Final = 256
#: A policy has to fit into one record, with all answers.
MAX_NAMES_BYTES: Final = 32 * 1024
#: What a container's names may stand for at once; the oldest answer goes when there are more.
MAX_ANSWERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Element:
    """One element of one of the firewall's sets."""

    set: SetName
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be added to the sets, and what removed from them, in one transaction."""

    add: frozenset[Element] = frozenset()
    remove: frozenset[Element] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


@dataclass(frozen=True, slots=True)
class Egress:
    """What a container may reach outside: everything public, or these networks and what these names stand for."""

    open: bool = False
    networks: tuple[IPv4Network, ...] = ()
    names: tuple[str, ...] = ()

    def allows_name(self, name: str) -> bool:
        """Whether a name (in lower case, without a dot at its end) may be asked for, itself or beneath `*.`."""
        if self.open:
            return True
        return any(
            name == known or (known.startswith("*.") and name.endswith(known[1:])) for known in self.names
        )

    def describe(self) -> list[str]:
        """As it is asked for."""
        return ["open"] if self.open else [*map(str, self.networks), *self.names]


OPEN: Final = Egress(open=True)
CLOSED: Final = Egress()


@dataclass(frozen=True, slots=True)
class Party:
    """A container, as the firewall knows it; its account is whose permissions are counted."""

    id: str
    address: IPv4Address
    account: str = ""


@dataclass(frozen=True, slots=True)
class Permission:
    """The client may open connections to the server, on one port or all, and may know it by these names."""

    server: Party
    client: Party
    port: int | None
    names: tuple[str, ...] = ()

    @property
    def pair(self) -> tuple[str, str]:
        return self.server.id, self.client.id

    def elements(self) -> frozenset[Element]:
        pair = (str(self.client.address), str(self.server.address))
        if self.port is None:
            return frozenset({Element("allowed", pair)})
        return frozenset(Element(ports, (*pair, str(self.port))) for ports in PORT_SETS.values())


class Access:
    """All permissions and policies of a node."""

    def __init__(self) -> None:
        #: By server and client, and then by port.
        self._permissions: dict[tuple[str, str], dict[int | None, Permission]] = {}
        #: The pairs that a container is one of, by its id.
        self._pairs: dict[str, set[tuple[str, str]]] = {}
        self._count: Counter[str] = Counter()
        #: What says so, by a client and a name by which it finds a server.
        self._named: dict[tuple[str, str], dict[Permission, None]] = {}
        self._egress: dict[IPv4Address, Egress] = {}
        #: By container, in the order in which they were given.
        self._answers: dict[IPv4Address, dict[IPv4Address, None]] = {}

    # --- between containers

    def allow(self, permission: Permission) -> Change:
        """What lets the client connect."""
        known = self._permissions.get(permission.pair, {})
        return Change() if permission.port in known else Change(add=permission.elements())

    def commit_allow(self, permission: Permission) -> None:
        """It has been applied; of one that was there already, the names may be new."""
        ports = self._permissions.setdefault(permission.pair, {})
        if (before := ports.get(permission.port)) is not None:
            self._forget_names(before)
        else:
            self._count[permission.server.account] += 1
        ports[permission.port] = permission
        for name in permission.names:
            self._named.setdefault((permission.client.id, name), {})[permission] = None
        for container in permission.pair:
            self._pairs.setdefault(container, set()).add(permission.pair)

    def disallow(self, server: str, client: str, port: int | None) -> list[Permission]:
        """The permissions to withdraw: that of a port, or without one all of these two."""
        found = self._permissions.get((server, client), {})
        return list(found.values()) if port is None else [found[port]] if port in found else []

    def commit_withdrawal(self, permissions: Iterable[Permission]) -> None:
        for permission in permissions:
            self._forget_names(permission)
            ports = self._permissions.get(permission.pair, {})
            if ports.pop(permission.port, None) is not None:
                self._count_one_less(permission.server.account)
            if ports:
                continue
            self._permissions.pop(permission.pair, None)
            for container in permission.pair:
                pairs = self._pairs.get(container, set())
                pairs.discard(permission.pair)
                if not pairs:
                    self._pairs.pop(container, None)

    def count_permissions(self, account: str) -> int:
        """How many the account has, whose both containers are."""
        return self._count[account]

    def _count_one_less(self, account: str) -> None:
        self._count[account] -= 1
        if not self._count[account]:
            del self._count[account]

    def permissions_of(self, container: str) -> list[Permission]:
        """Those in which a container has a part."""
        return [one for pair in self._pairs.get(container, ()) for one in self._permissions[pair].values()]

    def find_server(self, client: str, name: str) -> IPv4Address | None:
        """Whom a container may connect to by this name."""
        permission = next(iter(self._named.get((client, name), ())), None)
        return None if permission is None else permission.server.address

    def _forget_names(self, permission: Permission) -> None:
        for name in permission.names:
            named = self._named.get((permission.client.id, name), {})
            named.pop(permission, None)
            if not named:
                self._named.pop((permission.client.id, name), None)

    # --- to the outside

    def egress_of(self, address: IPv4Address) -> Egress:
        """The policy of a container; open when none was set, as it is in the firewall from the start."""
        return self._egress.get(address, OPEN)

    def set_egress(self, address: IPv4Address, egress: Egress) -> Change:
        """What replaces its policy, the answers that it was given included."""
        before, after = self._outside(address), set(_policy_elements(address, egress))
        return Change(add=frozenset(after - before), remove=frozenset(before - after))

    def commit_egress(self, address: IPv4Address, egress: Egress) -> None:
        self._egress[address] = egress
        self._answers.pop(address, None)

    def answer(self, address: IPv4Address, given: Iterable[IPv4Address]) -> Change:
        """What lets it reach the addresses that a name stands for; the oldest answers make room."""
        known = self._answers.get(address, {})
        new = [one for one in dict.fromkeys(given) if one not in known][:MAX_ANSWERS]
        surplus = len(known) + len(new) - MAX_ANSWERS
        old = list(known)[: max(0, surplus)]
        return Change(
            frozenset(_answer(address, one) for one in new), frozenset(_answer(address, one) for one in old)
        )

    def commit_answer(self, address: IPv4Address, change: Change) -> None:
        known = self._answers.setdefault(address, {})
        for element in change.remove:
            known.pop(IPv4Address(element.key[1]), None)
        known.update(dict.fromkeys(IPv4Address(element.key[1]) for element in change.add))

    def answers_of(self, address: IPv4Address) -> list[IPv4Address]:
        """What its names stand for, the oldest answer first."""
        return list(self._answers.get(address, ()))

    def commit_opening(self, address: IPv4Address, egress: Egress, answers: Iterable[IPv4Address]) -> None:
        """It goes on with this."""
        self._egress[address] = egress
        self._answers[address] = dict.fromkeys(answers)

    # --- at its end

    def forget(self, party: Party) -> Change:
        """What leaves nothing of a container in the firewall, so that another may have its address."""
        mine = (element for one in self.permissions_of(party.id) for element in one.elements())
        return Change(remove=frozenset([*mine, _member(party.address), *self._outside(party.address)]))

    def commit_forget(self, party: Party) -> None:
        self.commit_withdrawal(self.permissions_of(party.id))
        self._egress.pop(party.address, None)
        self._answers.pop(party.address, None)

    def _outside(self, address: IPv4Address) -> set[Element]:
        return _outside_elements(address, self.egress_of(address), self._answers.get(address, ()))


def opening(address: IPv4Address, egress: Egress = OPEN, answers: Iterable[IPv4Address] = ()) -> Change:
    """What a sandbox begins with: a new one has the outside open to it, as `Access.egress_of` takes for granted.

    Args:
        egress: the policy of one that has been there before.
        answers: what the names stand for that it may ask for.
    """
    return Change(add=frozenset([_member(address), *_outside_elements(address, egress, answers)]))


def _member(address: IPv4Address) -> Element:
    return Element("members", (str(address), str(address)))


def _policy_elements(address: IPv4Address, egress: Egress) -> Iterator[Element]:
    if egress.open:
        yield Element("open", (str(address),))
    for network in egress.networks:
        yield Element("egress", (str(address), str(network)))


def _outside_elements(address: IPv4Address, egress: Egress, answers: Iterable[IPv4Address]) -> set[Element]:
    return {*_policy_elements(address, egress), *(_answer(address, one) for one in answers)}


def _answer(address: IPv4Address, answer: IPv4Address) -> Element:
    return Element("answers", (str(address), str(answer)))


def plan_egress(
    asked: list[str],
    *,
    private: Iterable[IPv4Network],
    permitted: tuple[IPv4Network, ...],
    forbidden: Iterable[IPv4Network],
) -> Egress:
    """The policy that was asked for: ``["open"]``, nothing for none, or networks, addresses and names.

    Args:
        private: the networks that are private. Of a larger one, what is private and not permitted stays closed.
        permitted: what of them may be asked for.
        forbidden: networks that are never let through; to ask for them is a mistake, and said to be one.

    Raises:
        InvalidArgument: an entry is none of these, or may not be asked for.
    """
    if asked == ["open"]:
        return OPEN
    networks: list[IPv4Network] = []
    names: list[str] = []
    for entry in asked:
        network = _parse_network(entry)
        if network is None:
            names.append(_parse_name(entry))
        else:
            _check_network(network, private, permitted, forbidden)
            networks.append(network)
    if len(networks) > MAX_NETWORKS or len(names) > MAX_NAMES:
        raise InvalidArgument(
            f"egress has {len(networks)} networks and {len(names)} names: at most {MAX_NETWORKS} and {MAX_NAMES}"
        )
    size = sum(map(len, names))
    if size > MAX_NAMES_BYTES:
        raise InvalidArgument(f"the names of egress have {size} bytes together: at most {MAX_NAMES_BYTES}")
    # Neighbours are joined, and what is inside another left out: the kernel wants no overlaps.
    return Egress(networks=tuple(collapse_addresses(networks)), names=tuple(dict.fromkeys(names)))


def _parse_network(entry: str) -> IPv4Network | None:
    if not entry[:1].isdigit() or ("/" not in entry and not entry.replace(".", "").isdigit()):
        return None
    try:
        return IPv4Network(entry)
    except ValueError as exc:
        raise InvalidArgument(
            f"egress has {entry[:80]!r}, which is no IPv4 network: {_explain(entry, exc)}"
        ) from exc


def _explain(entry: str, error: ValueError) -> str:
    """What is wrong with a network; an address within one was probably meant as the whole of it, or alone."""
    try:
        within = IPv4Interface(entry)
    except ValueError:
        return str(error)
    return f"it is an address within {within.network}; give that, or {within.ip} alone"


def _check_network(
    network: IPv4Network,
    private: Iterable[IPv4Network],
    permitted: tuple[IPv4Network, ...],
    forbidden: Iterable[IPv4Network],
) -> None:
    for never in forbidden:
        if network.overlaps(never) and network.prefixlen:
            raise InvalidArgument(f"egress has {network}, and no container may reach {never}: leave it out")
    is_private = any(network.subnet_of(one) for one in private)
    if is_private and not any(network.subnet_of(one) for one in permitted):
        raise InvalidArgument(
            f"egress has {network}: this node lets containers reach no private network but "
            f"{', '.join(map(str, permitted)) or 'none'} (private_egress in node.toml)"
        )


def _parse_name(entry: str) -> str:
    name = entry.lower().rstrip(".")
    labels = name.removeprefix("*.").split(".")
    good = all(
        label and len(label) <= 63 and label.replace("-", "a").replace("_", "a").isalnum() and label.isascii()
        for label in labels
    )
    if not good or len(name) > 253 or name == "open":
        raise InvalidArgument(
            f'egress has {entry[:80]!r}: use "open", "none", or a list of networks such as 10.1.2.0/24 and names '
            "such as example.org or *.example.org"
        )
    return name
