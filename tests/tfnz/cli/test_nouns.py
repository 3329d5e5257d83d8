"""`tfnz ps`, `image` and `node`: tables for people, JSON for programs, a line for each failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tfnz.cli.main import cli
from tfnz.protocol.errors import (
    ConnectionFailed,
    ImageInUse,
    ImageNotFound,
    NoAccount,
    NodeRestarted,
    NotAuthorised,
    TfnzError,
)
from tfnz.protocol.messages import ConnectionInfo, ContainerInfo, ImageInfo

if TYPE_CHECKING:
    from tests.tfnz.cli.conftest import Tool

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def busy(tfnz: Tool) -> Tool:
    tfnz.location.known_containers = [
        ContainerInfo(
            "A" * 22, "node1", "10.200.0.1", DIGEST, "web", "running", 1.0, False, 64 << 20, ["open"]
        ),
        ContainerInfo("B" * 22, "node1", "10.200.0.2", DIGEST, None, "asleep", None, False),
    ]
    tfnz.location.known_images = [
        ImageInfo(DIGEST, ["web:1", "busybox:latest"], 5 << 20, 1.0, 3, {"Cmd": ["sh"]}),
        ImageInfo("sha256:" + "cd" * 32, [], 1536, 1.0, 1),
    ]
    return tfnz


def columns(text: str) -> list[list[str]]:
    assert "\t" not in text
    return [line.split() for line in text.splitlines()]


def test_ps_is_columns_that_can_be_counted(busy: Tool) -> None:
    result = busy("ps")
    assert result.exit_code == 0
    heading, first, second = columns(result.stdout)
    assert heading == ["CONTAINER", "TAG", "IMAGE", "ADDRESS", "STATE", "UP", "MEMORY"]
    assert first[:5] == ["A" * 22, "web", "abababababab", "10.200.0.1", "running"]
    assert first[6] == "64M"
    assert second == ["B" * 22, "-", "abababababab", "10.200.0.2", "asleep", "-", "0B"]


def test_ps_as_json(busy: Tool) -> None:
    first, second = json.loads(busy("ps", "--json").stdout)
    assert first == {
        "container": "A" * 22,
        "node": "node1",
        "ip": "10.200.0.1",
        "image": DIGEST,
        "tag": "web",
        "state": "running",
        "started_s": 1.0,
        "mine": False,
        "memory_bytes": 64 << 20,
        "egress": ["open"],
    }
    assert second["tag"] is None


def test_firewall_lists_what_is_open(busy: Tool) -> None:
    busy.location.known_connections = [
        ConnectionInfo("A" * 22, "B" * 22, "10.200.0.1", "10.200.0.2", 5432, ["web", "db"]),
        ConnectionInfo("A" * 22, "C" * 22, "10.200.0.1", "10.200.0.3"),
    ]
    heading, *rows = columns(busy("firewall", "ls").stdout)
    assert heading == ["FROM", "ADDRESS", "TO", "PORT", "NAMES"]
    assert rows == [
        ["B" * 22, "10.200.0.2", "web", "5432", "web,db"],
        ["C" * 22, "10.200.0.3", "web", "all", "-"],
        ["web", "10.200.0.1", "outside", "all", "-"],
    ]


def test_firewall_as_json(busy: Tool) -> None:
    busy.location.known_connections = [
        ConnectionInfo("A" * 22, "B" * 22, "10.200.0.1", "10.200.0.2", 5432, ["web"])
    ]
    assert json.loads(busy("firewall", "ls", "--json").stdout) == {
        "connections": [
            {
                "container": "A" * 22,
                "client": "B" * 22,
                "container_ip": "10.200.0.1",
                "client_ip": "10.200.0.2",
                "port": 5432,
                "names": ["web"],
            }
        ],
        "egress": {"A" * 22: ["open"], "B" * 22: []},
    }


def test_nothing_is_a_heading_or_an_empty_array(tfnz: Tool) -> None:
    assert len(columns(tfnz("ps").stdout)) == 1
    assert tfnz("ps", "--json").stdout == "[]\n"


def test_image_ls(busy: Tool) -> None:
    rows = columns(busy("image", "ls").stdout)
    assert [row[:4] for row in rows[1:]] == [
        ["-", "cdcdcdcdcdcd", "1.5K", "1"],
        ["busybox:latest", "abababababab", "5M", "3"],
        ["web:1", "abababababab", "5M", "3"],
    ]
    first, second = json.loads(busy("image", "ls", "--json").stdout)
    assert set(first) == {"digest", "names", "size_bytes", "created_s", "layers"}
    assert second["names"] == []


def test_image_import_prints_the_digest(tfnz: Tool, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    result = tfnz("image", "import", str(tmp_path / "a.tar"), "--name", "app")
    assert result.exit_code == 0
    assert result.stdout == f"sha256:{1:064x}\n"
    assert "imported as app: 2 layers, 5M" in result.stderr
    assert tfnz.location.imported == [(str(tmp_path / "a.tar"), "app")]


def test_image_import_reads_standard_input(tfnz: Tool) -> None:
    result = tfnz("image", "import", "-", "--json", stdin=b"archive")
    assert json.loads(result.stdout)["digest"] == f"sha256:{1:064x}"
    assert tfnz.location.imported == [(b"archive", None)]


def test_image_import_of_nothing_needs_no_node(tfnz: Tool) -> None:
    result = tfnz("image", "import", "/surely/not/there.tar")
    assert result.exit_code == 2
    assert "/surely/not/there.tar" in result.stderr
    assert not tfnz.location.targets


def test_image_rm(busy: Tool) -> None:
    result = busy("image", "rm", "web:1", "sha256:" + "cd" * 32)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["web:1", "sha256:" + "cd" * 32]
    assert busy.location.known_images == []


def test_image_rm_as_json(busy: Tool) -> None:
    assert json.loads(busy("image", "rm", "--json", "web:1").stdout) == {"removed": ["web:1"]}


def test_image_rm_of_an_unknown_one(busy: Tool) -> None:
    result = busy("image", "rm", "nginx")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "tfnz: there is no image 'nginx'",
        "      tfnz image ls shows what there is; import one with: tfnz image import PATH",
    ]


def test_node_status(tfnz: Tool) -> None:
    shown = tfnz("node", "status").stdout
    assert "memory free      1.5G of 24G" in shown
    assert "up               2:02 h" in shown
    status = json.loads(tfnz("node", "status", "--json").stdout)
    assert status["sandboxes_ready"] == 8
    assert status["stats"] == {"cpu": 1.0}
    assert "type" not in status


def test_a_fault_of_ours_says_so(tfnz: Tool) -> None:
    tfnz.location.connect_error = ZeroDivisionError("division by zero")
    result = tfnz("ps")
    assert result.exit_code == 70
    assert result.stderr.splitlines() == [
        "tfnz: an error of tfnz itself, ZeroDivisionError: division by zero",
        "      with --debug it shows where",
    ]
    assert "ZeroDivisionError" in tfnz("ps", "--debug").stderr


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ConnectionFailed("nothing listens"), "tfnz-node serve"),
        (NodeRestarted("the node was restarted"), "try it again"),
        (ImageInUse("busy"), "tfnz ps"),
        (ImageNotFound("none"), "tfnz image ls"),
    ],
)
def test_failures_have_a_hint(tfnz: Tool, error: TfnzError, hint: str) -> None:
    tfnz.location.connect_error = error
    result = tfnz("node", "status")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first == f"tfnz: {error}"
    assert hint in second


@pytest.mark.parametrize(
    "error", [NoAccount("the key can be read by others; type: chmod 600 it"), NotAuthorised("join the group")]
)
def test_an_account_that_cannot_be_used_gets_no_advice_that_does_not_fit(
    tfnz: Tool, error: TfnzError
) -> None:
    tfnz.location.connect_error = error
    assert tfnz("ps").stderr.splitlines() == [f"tfnz: {error}"]


def test_a_message_that_says_what_to_do_gets_no_second_opinion(tfnz: Tool) -> None:
    tfnz.location.connect_error = ConnectionFailed("nothing listens; start a node with: tfnz-node serve")
    assert len(tfnz("ps").stderr.splitlines()) == 1


def test_what_others_wrote_cannot_control_the_terminal(busy: Tool) -> None:
    busy.location.known_images = [ImageInfo(DIGEST, ["evil\x1b[2J\nname"], 1, 1.0, 1)]
    assert "\\x1b[2J" in busy("image", "ls").stdout
    busy.location.connect_error = TfnzError("bad \x1b[31m\r\nname")
    assert busy("ps").stderr == "tfnz: bad \\x1b[31m name\n"


def test_interrupted(tfnz: Tool) -> None:
    tfnz.location.connect_error = KeyboardInterrupt()
    assert tfnz("ps").exit_code == 130


@pytest.mark.parametrize("arguments", [["frob"], ["image"], ["image", "rm"], ["ps", "--frob"], ["node", "x"]])
def test_a_line_that_makes_no_sense_is_2(tfnz: Tool, arguments: list[str]) -> None:
    assert tfnz(*arguments).exit_code == 2


def test_version(tfnz: Tool) -> None:
    result = tfnz("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("tfnz ")


def test_without_any_option_it_is_the_default_location(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFNZ_HOME", str(tmp_path))
    (tmp_path / "default_location").write_text("node1\n")
    result = CliRunner().invoke(cli, ["ps"], prog_name="tfnz")
    assert result.exit_code == 1
    assert result.stderr.startswith("tfnz: there is no account for location 'node1'")
