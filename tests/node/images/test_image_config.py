"""Tests of image configurations: what is kept of honest ones, and how absurd ones are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.image_config import parse_config, synthesise_config
from tfnz_node.images.record import ImageConfig

DIFF_ID = "sha256:" + "0" * 64


def parse(config: Any, **fields: Any) -> ImageConfig:
    document = {"rootfs": {"type": "layers", "diff_ids": [DIFF_ID]}, "config": config, **fields}
    return parse_config(json.dumps(document).encode(), what="the configuration", max_layers=4).config


def test_everything_that_starts_a_container_is_kept() -> None:
    config = parse(
        {
            "Entrypoint": ["/entry", "a b"],
            "Cmd": ["c"],
            "Env": ["A=1=2", "B="],
            "User": "app:users",
            "WorkingDir": "/srv//app/",
            "StopSignal": "SIGQUIT",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "9000-9010": {}},
            "Labels": {"a": "b"},
            "Healthcheck": {"Test": ["NONE"]},
        },
        architecture="amd64",
        os="linux",
        history=[{}],
    )
    assert config == ImageConfig(
        entrypoint=["/entry", "a b"],
        cmd=["c"],
        env=["A=1=2", "B="],
        user="app:users",
        workdir="/srv/app",
        stop_signal="SIGQUIT",
        exposed=["53/udp", "80/tcp", "9000-9010"],
        labels={"a": "b"},
    )


@pytest.mark.parametrize(
    "config", [None, {}, {"Cmd": None, "Env": None, "User": None, "ExposedPorts": None, "Labels": None}]
)
def test_what_is_left_out_has_its_default(config: Any) -> None:
    assert parse(config) == ImageConfig()


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("", "SIGTERM"),
        ("SIGINT", "SIGINT"),
        ("int", "SIGINT"),
        ("9", "SIGKILL"),
        ("SIGRTMIN+3", "SIGRTMIN+3"),
        ("37", "SIGRTMIN+3"),
        ("34", "SIGRTMIN"),
        ("RTMAX-1", "SIGRTMAX-1"),
    ],
)
def test_stop_signals_become_names(text: str, signal: str) -> None:
    assert parse({"StopSignal": text}).stop_signal == signal


def test_a_relative_working_directory_is_below_the_root() -> None:
    assert parse({"WorkingDir": "app"}).workdir == "/app"
    assert parse({"WorkingDir": "/a/../../.."}).workdir == "/"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"Entrypoint": 7}, r"\$\.config\.Entrypoint"),
        ({"Entrypoint": "sh"}, r"\$\.config\.Entrypoint"),
        ({"Cmd": ["a", 7]}, r"\$\.config\.Cmd\[1\]"),
        ({"Cmd": ["a"] * 2000}, "Entrypoint and Cmd has 2000 words"),
        ({"Cmd": ["a" * 70_000]}, "Entrypoint and Cmd is longer"),
        ({"Cmd": ["a\0b"]}, "Entrypoint and Cmd has a zero byte"),
        ({"Env": {"A": "1"}}, r"\$\.config\.Env"),
        ({"Env": ["NOVALUE"]}, "Env has 'NOVALUE', which is not NAME=value"),
        ({"Env": ["=value"]}, "Env has '=value'"),
        ({"Env": ["A=\0"]}, "Env has a zero byte"),
        ({"Env": ["A=" + "x" * 70_000]}, "Env is longer"),
        ({"User": "u" * 4_000_000}, "User 'u+..."),
        ({"User": "root\nroot"}, "User "),
        ({"User": 0}, r"\$\.config\.User"),
        ({"WorkingDir": "/" + "x" * 5000}, "WorkingDir"),
        ({"WorkingDir": "/a\0"}, "WorkingDir"),
        ({"StopSignal": "SIGWHAT"}, "StopSignal 'SIGWHAT' is no signal"),
        ({"StopSignal": "0"}, "StopSignal"),
        ({"StopSignal": "65"}, "StopSignal"),
        ({"StopSignal": "9" * 100_000}, "StopSignal"),
        ({"ExposedPorts": {"http": {}}}, "ExposedPorts has 'http'"),
        ({"ExposedPorts": ["80"]}, r"\$\.config\.ExposedPorts"),
        ({"Labels": {"a": 1}}, r"\$\.config\.Labels"),
        ({"Labels": {"a": "x" * 70_000}}, "Labels is longer"),
        ([], r"\$\.config"),
    ],
)
def test_absurd_values_are_refused_by_the_name_of_their_field(config: Any, field: str) -> None:
    with pytest.raises(ImageInvalid, match=field) as caught:
        parse(config)
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"x":' * 100_000, "cannot be read"),
        (b"{}", "rootfs"),
        (b'{"rootfs":{"diff_ids":[]}}', "rootfs.diff_ids is empty"),
        (b'{"rootfs":{"diff_ids":["sha256:../../etc"]}}', "rootfs.diff_ids has 'sha256:../../etc'"),
        (b'{"rootfs":{"diff_ids":["sha512:00"]}}', "no SHA-256 digest"),
        (b'{"rootfs":{"diff_ids":[1]}}', "rootfs.diff_ids"),
        (b'{"rootfs":{"diff_ids":["a","b","c","d","e"]}}', "limit layers, 4"),
        (
            b'{"architecture":"arm64","rootfs":{"diff_ids":["a"]}}',
            "is for linux/arm64; this node runs linux/amd64",
        ),
        (b'{"os":"windows","rootfs":{"diff_ids":["a"]}}', "is for windows/amd64"),
    ],
)
def test_a_document_that_is_no_configuration_is_refused(document: bytes, reason: str) -> None:
    with pytest.raises(ImageInvalid, match=reason):
        parse_config(document, what="the configuration", max_layers=4)


def test_a_bare_root_file_system_is_given_a_configuration() -> None:
    parsed = parse_config(synthesise_config(DIFF_ID), what="the configuration", max_layers=1)
    assert parsed.diff_ids == [DIFF_ID]
    assert parsed.config == ImageConfig(cmd=["/bin/sh"])
