"""The one place where the daemon runs a short-lived tool of the host."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence

from tfnz_node.kernel.descriptors import require_descriptors

MAX_OUTPUT_BYTES = 16 << 20
_STDERR_TAIL_BYTES = 4096
_CHUNK_BYTES = 65536

# The Debian package of every tool we run, so that a missing one can be named together with its cure.
_PACKAGES: Mapping[str, str] = {
    "btrfs": "btrfs-progs",
    "mkfs.btrfs": "btrfs-progs",
    "ip": "iproute2",
    "nft": "nftables",
    "losetup": "util-linux",
    "mount": "util-linux",
    "modprobe": "kmod",
    "skopeo": "skopeo",
    "tar": "tar",
    "haproxy": "haproxy",
}
# A daemon started by hand may lack the sbin directories, where most of these tools live.
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ToolFailed(RuntimeError):
    """A tool could not be run, ran too long, wrote too much or ended with an unexpected exit code.

    Attributes:
        argv: What was run.
        exit_code: How it ended, negative for a signal; None when it did not end by itself or never started.
        stderr_tail: The last lines it wrote to stderr.
    """

    def __init__(
        self, argv: Sequence[str], reason: str, *, exit_code: int | None = None, stderr: bytes = b""
    ) -> None:
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.stderr_tail = stderr[-_STDERR_TAIL_BYTES:].decode("utf-8", "replace").strip()
        said = f"; it said: {self.stderr_tail}" if self.stderr_tail else ""
        super().__init__(f"{' '.join(self.argv)}: {reason}{said}")


def run_tool(
    argv: Sequence[str],
    *,
    input: bytes = b"",
    timeout_s: float = 60,
    accepted: Collection[int] = (0,),
    max_output_bytes: int = MAX_OUTPUT_BYTES,
) -> bytes:
    """What the tool wrote to stdout, once it has ended with an accepted exit code.

    Args:
        argv: The tool's bare name and its arguments; nothing is ever given to a shell.
        input: What the tool reads from stdin.
        timeout_s: After this long the tool is killed.
        accepted: Exit codes that count as success.
        max_output_bytes: A tool that writes more than this is killed.

    Raises:
        ToolFailed: names the argument list, the reason and the tail of stderr.
        OSError: there are no descriptors for its pipes, or no room for another process.
    """
    path = find_tool(argv[0])
    if path is None:
        raise ToolFailed(argv, describe_missing(argv[0]))
    environment = {"PATH": _SEARCH_PATH, "LC_ALL": "C", "HOME": os.environ.get("HOME", "/")}
    require_descriptors()
    with subprocess.Popen(
        [path, *argv[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        try:
            stdout, stderr = _converse(
                process, argv, input, time.monotonic() + timeout_s, timeout_s, max_output_bytes
            )
        except BaseException:
            process.kill()
            raise
    if process.returncode not in accepted:
        raise ToolFailed(argv, _ended(process.returncode), exit_code=process.returncode, stderr=stderr)
    return stdout


def find_tool(name: str) -> str | None:
    """The absolute path of a tool of the host, or None."""
    return shutil.which(name, path=_SEARCH_PATH) or shutil.which(name)


def describe_missing(name: str) -> str:
    """What to do about a tool that this host does not have."""
    package = _PACKAGES.get(name)
    cure = f"install it with `apt-get install {package}`" if package else "install it or add it to PATH"
    return f"the tool {name!r} is not on this host; {cure}"


def _ended(returncode: int) -> str:
    return f"ended with exit code {returncode}" if returncode >= 0 else f"was ended by signal {-returncode}"


def _converse(
    process: subprocess.Popen[bytes],
    argv: Sequence[str],
    data: bytes,
    deadline: float,
    timeout_s: float,
    max_output_bytes: int,
) -> tuple[bytes, bytes]:
    """Feed stdin and collect both outputs, without trusting the tool to stop writing or to end."""
    assert process.stdin and process.stdout and process.stderr
    out, err = bytearray(), bytearray()
    remaining = memoryview(data)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, out)
        selector.register(process.stderr, selectors.EVENT_READ, err)
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                raise ToolFailed(argv, f"did not end within {timeout_s:g} s", stderr=bytes(err))
            for key, _ in ready:
                if key.data is None:
                    remaining = _feed(key.fd, remaining)
                    if not remaining:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
                if key.data is err:
                    del err[:-_STDERR_TAIL_BYTES]
                elif len(out) > max_output_bytes:
                    raise ToolFailed(argv, f"wrote more than {max_output_bytes} bytes", stderr=bytes(err))
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ToolFailed(argv, f"did not end within {timeout_s:g} s", stderr=bytes(err)) from None
    return bytes(out), bytes(err)


def _feed(fd: int, remaining: memoryview) -> memoryview:
    try:
        return remaining[os.write(fd, remaining[:_CHUNK_BYTES]) :]
    except BrokenPipeError:  # The tool did not want the rest; its exit code says whether that was a failure.
        return remaining[:0]
