"""The comparison as a table for people: what is possible in docker's default container and in ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.confinement.names import CAPABILITIES, find_call_names
from tests.confinement.report import HIDDEN, Report
from tests.confinement.weaknesses import find_state

BEGIN = "<!-- made by python -m tests.confinement.recorded -->"
END = "<!-- until here -->"


@dataclass(frozen=True)
class Row:
    """One line: what it is about, how to say it of a container, and what the measure stops."""

    what: str
    say: Callable[[Report, Report], str]
    stops: str


def render_table(docker: Report, ours: Report) -> str:
    """Markdown, without the markers."""
    lines = [
        f"| | docker {docker.about['version']} | 20ft | what it stops |",
        "|---|---|---|---|",
        *(
            f"| {row.what} | {row.say(docker, ours)} | {row.say(ours, docker)} | {row.stops} |"
            for row in ROWS
        ),
    ]
    return "\n".join(lines) + "\n"


def replace_table(text: str, table: str) -> str:
    """A document with the table between its markers.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def _join(words: Iterable[str], none: str = "none") -> str:
    return ", ".join(words) or none


def _say_root(one: Report, _: Report) -> str:
    return "the host's root" if one.root_is == 0 else "an id that is nobody's on the host"


def _say_capabilities(one: Report, other: Report) -> str:
    own, others = ({*_find_capabilities(report)} for report in (one, other))
    more = sorted(own - others)
    return f"{len(own)}" + (f", {', '.join(more)} among them" if more else "")


def _find_capabilities(one: Report) -> list[str]:
    return [name for name, number in CAPABILITIES.items() if one.capabilities["CapBnd"] >> number & 1]


def _say_calls(one: Report, other: Report) -> str:
    own, others = (_find_calls(report) for report in (one, other))
    more = sorted(own - others)
    return f"{len(own)} of {len(find_call_names())}" + (f", {', '.join(more)} among them" if more else "")


def _find_calls(one: Report) -> set[str]:
    """Names of calls that are possible at all, and be it with certain arguments only."""
    names = find_call_names()
    allowed = {names[number] for number in one.allowed("x86_64") if number in names}
    return allowed | {name.split()[0] for name in one.allowed_particular()} & set(names.values())


def _say_foreign_calls(one: Report, _: Report) -> str:
    counts = {name: len(one.allowed(name)) for name in ("x86", "x32")}
    return _join(f"{count} of {name}" for name, count in counts.items() if count)


def _say_particular(one: Report, prefix: str) -> list[str]:
    return sorted(
        (name.removeprefix(prefix).strip() for name in one.allowed_particular() if name.startswith(prefix)),
        key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name),
    )


def _say_new_namespaces(one: Report, _: Report) -> str:
    return _join(sorted({*_say_particular(one, "clone"), *_say_particular(one, "unshare")}))


def _say_families(one: Report, _: Report) -> str:
    plain = [name for name in _say_particular(one, "socket") if name.isdigit()]
    netlinks = _say_particular(one, "netlink")
    named = {"1": "unix", "2": "inet", "10": "inet6"}
    families = (
        f"all of {len(plain) + 1}" if len(plain) > 40 else _join(named.get(name, name) for name in plain)
    )
    return f"{families}, and netlink's {len(netlinks)} of 23"


def _say_terminal(one: Report, _: Report) -> str:
    return _join(name for name in _say_particular(one, "ioctl") if "bit" not in name)


def _say_sockets(one: Report, _: Report) -> str:
    return _join(name for name, answer in one.sockets.items() if answer == "opened")


def _say_writable(one: Report, _: Report) -> str:
    return str(len(one.writable)) if one.writable else "none"


def _say_shown(one: Report, other: Report) -> str:
    return _join(f"`{path}`" for path in sorted(one.with_content()) if find_state(other, path) in HIDDEN)


def _say_devices(one: Report, _: Report) -> str:
    return _join(path.removeprefix("/dev/") for path in one.devices)


def _say_nodes(one: Report, _: Report) -> str:
    words = {"EPERM": "cannot be made", "made": "can be made, and not opened", "opened": "can be opened"}
    return _join(sorted({words[outcome] for outcome in one.device_nodes.values()}))


def _say_mounts(one: Report, _: Report) -> str:
    # /dev has to have devices.
    missing = sorted(
        f"{option} on {target}"
        for target in ("/", "/dev")
        for option in ("nosuid", "nodev")
        if option not in one.mounts[target] and (target, option) != ("/dev", "nodev")
    )
    return f"without {', '.join(missing)}" if missing else "nosuid, nodev"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


ROWS = (
    Row(
        "root inside is",
        _say_root,
        "what root could do to the host's files, once something has led out (CVE-2019-5736)",
    ),
    Row("capabilities", _say_capabilities, "forged packets, device nodes, entries in the host's log"),
    Row(
        "set-id programs and file capabilities give rights",
        lambda one, _: _yes(not one.no_new_privs),
        "a user in the container who becomes its root by a program with a bug",
    ),
    Row(
        "system calls",
        _say_calls,
        "bugs of the kernel in what hardly any program needs (io_uring: CVE-2022-29582)",
    ),
    Row("system calls of 32-bit programs", _say_foreign_calls, "a second set of ways into the kernel"),
    Row(
        "new namespaces",
        _say_new_namespaces,
        "every capability, in a namespace of one's own (CVE-2022-0185, CVE-2022-0492)",
    ),
    Row(
        "families of sockets",
        _say_families,
        "modules that the kernel loads when asked (vsock: CVE-2021-26708; TIPC: CVE-2021-43267)",
    ),
    Row("sockets for", _say_sockets, "packets in others' names, and listening to them (CVE-2020-14386)"),
    Row(
        "requests to a terminal",
        _say_terminal,
        "words typed for whoever looks at a container's terminal (CVE-2016-2568), line disciplines (CVE-2017-2636)",
    ),
    Row("namespaces of the host", lambda one, _: _join(one.shared), "the sight and reach of what is in them"),
    Row(
        "files in /proc and /sys that open for writing",
        _say_writable,
        "settings of the host's kernel, and programs that it starts (core_pattern, release_agent, uevent_helper)",
    ),
    Row("shown there, and hidden by the other", _say_shown, "side channels, and what else runs on the host"),
    Row("devices", _say_devices, "disks, memory, the console"),
    Row("other devices' nodes", _say_nodes, "an image or a process that brings its own"),
    Row("/ and /dev are mounted", _say_mounts, "set-id programs and device nodes in images"),
    Row(
        "directories of the host that are named",
        lambda one, _: str(one.host_paths) if one.host_paths else "none",
        "an attacker who must know a path outside",
    ),
    Row("the cgroup's path is shown", lambda one, _: _yes(one.names_cgroup), "the same"),
    Row(
        "core dumps",
        lambda one, _: "yes" if one.limits["core"] else "no",
        "the host's program for them, which runs outside (CVE-2015-1318)",
    ),
    Row(
        "open descriptors at the start",
        lambda one, _: _join(map(str, one.descriptors)),
        "directories and files of the host that were left open (CVE-2024-21626)",
    ),
)
