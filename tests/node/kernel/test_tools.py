"""Running a tool of the host."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tfnz_node.kernel import tools
from tfnz_node.kernel.tools import ToolFailed, describe_missing, find_tool, run_tool


def test_stdout_of_a_tool_that_reads_stdin() -> None:
    data = bytes(range(256)) * 4096
    assert run_tool(["cat"], input=data) == data


def test_a_tool_that_does_not_read_its_stdin_is_no_failure() -> None:
    assert run_tool(["true"], input=b"x" * (1 << 20)) == b""


def test_arguments_are_never_read_by_a_shell() -> None:
    assert run_tool(["echo", "$HOME; id", "*"]) == b"$HOME; id *\n"


def test_the_locale_is_ours() -> None:
    assert b"LC_ALL=C\n" in run_tool(["env"])


def test_a_failure_names_command_code_and_what_it_said() -> None:
    with pytest.raises(
        ToolFailed, match=r"ls /no-such-file: ended with exit code 2; it said: .*No such file"
    ) as failed:
        run_tool(["ls", "/no-such-file"])
    assert failed.value.exit_code == 2
    assert failed.value.argv == ("ls", "/no-such-file")


def test_accepted_exit_codes() -> None:
    assert run_tool(["sh", "-c", "echo fine; exit 3"], accepted=(0, 3)) == b"fine\n"


def test_a_signal_is_told_from_an_exit_code() -> None:
    with pytest.raises(ToolFailed, match="was ended by signal 15"):
        run_tool(["sh", "-c", "kill -TERM $$"])


def test_a_missing_tool_comes_with_its_package() -> None:
    assert "apt-get install btrfs-progs" in describe_missing("mkfs.btrfs")
    with pytest.raises(
        ToolFailed, match=r"'no-such-tool' is not on this host; install it or add it"
    ) as failed:
        run_tool(["no-such-tool"])
    assert failed.value.exit_code is None


def test_a_tool_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "said"
    asked: list[None] = []

    def now() -> float:
        """The time is up once it has said something, and not before it is asked for again."""
        asked.append(None)
        return 1000.0 if len(asked) > 1 and said.exists() else 0.0

    monkeypatch.setattr(tools, "time", SimpleNamespace(monotonic=now))
    with pytest.raises(ToolFailed, match=r"did not end within 1 s; it said: starting"):
        run_tool(["sh", "-c", f"echo starting >&2; : >{said}; exec sleep 1000"], timeout_s=1)


def test_a_tool_that_closes_its_outputs_and_stays_is_killed_too() -> None:
    with pytest.raises(ToolFailed, match="did not end within"):
        run_tool(["sh", "-c", "exec sleep 1000 >&- 2>&-"], timeout_s=0.2)


def test_a_tool_that_writes_without_end_is_killed() -> None:
    with pytest.raises(ToolFailed, match="wrote more than 100000 bytes"):
        run_tool(["yes"], max_output_bytes=100_000)


def test_only_the_tail_of_a_long_complaint_is_kept() -> None:
    with pytest.raises(ToolFailed) as failed:
        run_tool([sys.executable, "-c", "import sys; sys.exit('x' * 3000000 + ' the end')"])
    assert failed.value.stderr_tail.endswith("the end")
    assert len(failed.value.stderr_tail) <= 4096


def test_system_tools_are_found_without_them_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_tool("mount") is not None
