"""ssh's forwarding of ports: an sshd of our own on loopback, with keys that nobody keeps, and one client of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.peers.programs import find_program, run

_HOST: Final = "127.0.0.1"
#: sshd insists on this directory; /run is our own where peers are.
_EMPTY: Final = Path("/run/sshd")
_SERVER: Final = """\
ListenAddress {host}:{port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
"""


@contextmanager
def forwarding(directory: Path, port: int, forwarded: Sequence[tuple[int, int]]) -> Iterator[None]:
    """With ``ssh -L`` to an sshd at this port: each first port of a pair leads to the second.

    Raises:
        ContenderFailed: a program is missing. One that ends at once is noticed by whoever connects.
    """
    sshd, ssh = find_program("sshd", "openssh-server"), find_program("ssh", "openssh-client")
    keygen = find_program("ssh-keygen", "openssh-client")
    for name in ("host", "user"):
        run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(directory / name)])
    (directory / "sshd").write_text(_SERVER.format(host=_HOST, port=port, directory=directory))
    known = directory / "known"
    known.write_text(f"[{_HOST}]:{port} {(directory / 'host.pub').read_text()}")
    _EMPTY.mkdir(mode=0o755, exist_ok=True)
    options = {
        "ConnectionAttempts": "20",
        "ExitOnForwardFailure": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known),
    }
    client = [ssh, "-F", "none", "-N", "-i", str(directory / "user"), "-p", str(port)]
    for name, value in options.items():
        client += ["-o", f"{name}={value}"]
    for here, there in forwarded:
        client += ["-L", f"{_HOST}:{here}:{_HOST}:{there}"]
    with ExitStack() as stack:
        for command in ([sshd, "-D", "-e", "-f", str(directory / "sshd")], [*client, f"root@{_HOST}"]):
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(process.terminate)
        yield
