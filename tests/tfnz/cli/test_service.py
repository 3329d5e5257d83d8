"""`tfnz run --systemd`, as far as it goes without another host: what is planned, and the program that is written."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tfnz.cli.arguments import Publication
from tfnz.cli.service import MAX_CONCEALED, plan_service
from tfnz.one_container import VARIABLE
from tfnz.protocol.errors import InvalidArgument

if TYPE_CHECKING:
    from tests.tfnz.cli.conftest import Tool

OPTIONS: dict[str, Any] = {"env": {}, "pre_boot_files": {}}


def plan(
    scratch: Path, image: str, *command: str, publications: tuple[Publication, ...] = (), **options: Any
) -> dict[str, Any]:
    return plan_service(scratch, image, command, publications=publications, options={**OPTIONS, **options})


def read_call(app: dict[str, Any]) -> dict[str, Any]:
    """What the program calls `run_container` with."""
    call = ast.parse(Path(app["source"]).read_text()).body[-1]
    assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call)
    given = {word.arg or "options": ast.literal_eval(word.value) for word in call.value.keywords}
    return {"words": [ast.literal_eval(word) for word in call.value.args], **given}


@pytest.mark.parametrize(
    ("image", "tag", "expected"),
    [
        ("nginx", None, "nginx"),
        ("tfnz/env_test:1.2", None, "tfnz-env-test"),
        ("host:5000/web:1@sha256:00", None, "web"),
        ("docker.io/library/postgres", None, "library-postgres"),
        ("build/images/nginx-oci.tar", None, "nginx-oci"),
        ("build/images/web.shop.tar.gz", None, "web-shop"),
        ("tfnz/env_test", "web-2", "web-2"),
    ],
)
def test_a_service_is_called_as_its_container_or_its_image(
    tmp_path: Path, image: str, tag: str | None, expected: str
) -> None:
    Path(tmp_path, "build", "images").mkdir(parents=True)
    for archive in ("nginx-oci.tar", "web.shop.tar.gz"):
        Path(tmp_path, "build", "images", archive).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        app = plan(tmp_path, image, tag=tag)
    assert (app["name"], app["command"]) == (expected, [f"{expected}.py"])


def test_a_name_that_no_unit_can_have_is_refused(tmp_path: Path) -> None:
    for image, tag in (("2ft", None), ("x" * 24, None), ("nginx", "Web")):
        with pytest.raises(InvalidArgument, match="with --tag"):
            plan(tmp_path, image, tag=tag)


def test_the_program_has_what_is_not_secret(tmp_path: Path) -> None:
    """Whatever is in it: it is data there, and never code."""
    hostile = '"""\n__import__("os").abort()\n'
    app = plan(
        tmp_path,
        "busybox",
        "echo",
        hostile,
        publications=(Publication(80, 8080, "0.0.0.0"), Publication(81, "/run/a.sock")),
        env={"TOKEN": "hush"},
        pre_boot_files={"/etc/key": b"\0secret"},
        memory=64 << 20,
        egress=["10.0.0.0/8"],
    )
    assert read_call(app) == {
        "words": ["busybox", ["echo", hostile]],
        "published": [("0.0.0.0", 80, 8080), ("127.0.0.1", 81, "/run/a.sock")],
        "options": {"memory": 64 << 20, "egress": ["10.0.0.0/8"]},
    }
    assert "hush" not in Path(app["source"]).read_text()
    assert app["environment"] == {}
    assert json.loads(app["secret_environment"][VARIABLE])["env"] == {"TOKEN": "hush"}


def test_an_archive_goes_along(tmp_path: Path) -> None:
    archive = tmp_path / "box.tar"
    archive.touch()
    app = plan(tmp_path, str(archive))
    assert app["images"] == [{"name": "service/box:e3b0c44298fc1c14", "src": str(archive)}]
    assert read_call(app)["words"] == ["service/box:e3b0c44298fc1c14", None]
    archive.write_bytes(b"another")
    assert read_call(plan(tmp_path, str(archive)))["words"] != ["service/box:e3b0c44298fc1c14", None]
    with pytest.raises(InvalidArgument, match="is not a file"):
        plan(tmp_path, f"{tmp_path}/absent.tar")
    with pytest.raises(InvalidArgument, match="is not a file"):
        plan(tmp_path, str(tmp_path), tag="web")


@pytest.mark.parametrize(("port", "low"), [(80, True), (1024, False)])
def test_a_low_port_is_one_that_it_may_have(tmp_path: Path, port: int, low: bool) -> None:
    assert plan(tmp_path, "nginx", publications=(Publication(port, 80),))["low_ports"] is low


def test_what_a_service_cannot_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="has to be known"):
        plan(tmp_path, "busybox", publications=(Publication(0, 80),))
    with pytest.raises(InvalidArgument, match=f"a service can have {MAX_CONCEALED}"):
        plan(tmp_path, "busybox", pre_boot_files={"/big": bytes(MAX_CONCEALED)})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--socket", "/run/x.sock", "--systemd", "root@h"], "the choice of a node cannot be had"),
        (["--embedded", "--systemd", "root@h"], "the choice of a node cannot be had"),
        (["--timeout", "5", "--systemd", "root@h"], "--timeout cannot be had"),
        (["--identity", __file__], "is for ssh to the host of --systemd"),
    ],
)
def test_options_that_contradict_it_are_refused(tfnz: Tool, words: list[str], said: str) -> None:
    done = tfnz("run", *words, "busybox")
    assert done.exit_code == 125
    assert said in " ".join(done.stderr.split())


def test_the_host_is_looked_at_before_anything_is_done(tfnz: Tool) -> None:
    result = tfnz("run", "--systemd", "no such host", "busybox")
    assert result.exit_code == 125
    assert "is not USER@HOST" in result.stderr
    assert tfnz.location.spawned == []
