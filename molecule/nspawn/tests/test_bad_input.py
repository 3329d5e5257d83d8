"""What cannot be done is said in one clear message, and nothing on the machine is changed by it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.lab.site import ROOT, Site

GREETER = str(ROOT / "molecule" / "default" / "apps" / "greeter.py")
#: As the scenario's inventory has it: what is not said is not to be changed.
SETTINGS = {"disk": "2G", "pool_size": 4, "network": "10.200.0.0/16"}
NODE: dict[str, Any] = {"tfnz_node_settings": SETTINGS}
APP: dict[str, Any] = {"name": "new", "source": GREETER, "command": ["greeter.py", "8099"]}


def find_messages(output: str) -> list[str]:
    """What Ansible's failed tasks had to say, each once; those of modules with what they have heard themselves."""
    found = re.findall(r"^(?:fatal|failed): \[.*? => (\{.*?^\}|\{.*\})$", output, re.MULTILINE | re.DOTALL)
    messages = [json.loads(text) for text in found]
    return list(
        dict.fromkeys(
            f"{message.get('msg')} {message.get('stderr', '')}"
            for message in messages
            if "results" not in message
        )
    )


def expect_refusal(site: Site, told: str, playbook: str, variables: dict[str, Any], **login: Any) -> None:
    done = site.play(playbook, variables, **login)
    assert done.returncode != 0, done.stdout
    messages = find_messages(done.stdout)
    assert len(messages) == 1 and told in messages[0], done.stdout + done.stderr
    assert "changed=0" in done.stdout, done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@contextmanager
def small(site: Site, folder: str, size: str) -> Iterator[None]:
    """Inside, there is this much room beneath a directory of the machine, where all that was there still is."""
    script = f"""
        mkdir -p /run/small && mount -t tmpfs -o size={size} none /run/small && mkdir /run/small/up /run/small/work
        mount -t overlay -o lowerdir={folder},upperdir=/run/small/up,workdir=/run/small/work none {folder}
    """
    site.run(script)
    try:
        yield
    finally:
        site.run(f"umount {folder} && umount /run/small && rmdir /run/small")


@contextmanager
def replaced(site: Site, path: str, text: str) -> Iterator[None]:
    """Inside, a file of the machine has another content."""
    site.run(
        f"cp -a --dereference {path} /run/kept && printf '%s\\n' '{text}' >/run/other && mount --bind /run/other {path}"
    )
    try:
        yield
    finally:
        site.run(f"umount {path} && rm /run/other /run/kept")


pytestmark = pytest.mark.usefixtures("untouched")


@pytest.mark.parametrize("folder", ["/opt", "/var/cache"])
def test_a_full_disk_for_a_node(site: Site, folder: str) -> None:
    with small(site, folder, "64M"):
        expect_refusal(site, "node1 has only 6", "site.yml", NODE)


@pytest.mark.parametrize("folder", ["/opt", "/var/cache"])
def test_a_full_disk_for_an_application(site: Site, folder: str) -> None:
    with small(site, folder, "4M"):
        expect_refusal(
            site, "new cannot be deployed on node1: it needs", "deploy_app.yml", {"tfnz_apps": [APP]}
        )


def test_sudo_that_wants_a_password(site: Site) -> None:
    expect_refusal(site, "sudo password", "site.yml", NODE, ansible_user="visitor")


def test_a_user_who_does_not_become_root(site: Site) -> None:
    told = "the tasks run as another user than root; set become to true"
    expect_refusal(site, told, "site.yml", NODE, ansible_user="ops", ansible_become=False)


def test_a_host_that_does_not_listen(site: Site) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        expect_refusal(site, f"port {port}: Connection refused", "site.yml", NODE, ansible_port=port)


def test_a_variable_that_is_missing(site: Site) -> None:
    # Of what would have changed, nothing has.
    other = {"tfnz_node_settings": {**SETTINGS, "pool_size": 5}}
    accounts = {**other, "tfnz_accounts": [{"user": "root"}]}
    expect_refusal(site, "tfnz_accounts of node1: number 1 has no location", "site.yml", accounts)
    app = {key: value for key, value in APP.items() if key != "name"}
    expect_refusal(site, "tfnz_apps of node1: number 1 has no name", "deploy_app.yml", {"tfnz_apps": [app]})


def test_a_variable_that_is_misspelt(site: Site) -> None:
    accounts = {**NODE, "tfnz_accounts": [{"location": "node1", "usr": "ops"}]}
    told = "tfnz_accounts of node1: node1 has usr, which is none of location, node, user"
    expect_refusal(site, told, "site.yml", accounts)
    told = "tfnz_apps of node1: new has commands, which is none of name, state, source"
    expect_refusal(site, told, "deploy_app.yml", {"tfnz_apps": [{**APP, "commands": []}]})


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"networks": "10.200.0.0/16"}, "networks"), ({"network": "10.200.0.0/99"}, "10.200.0.0/99")],
)
def test_a_setting_that_cannot_be(site: Site, settings: dict[str, str], told: str) -> None:
    expect_refusal(site, told, "site.yml", {"tfnz_node_settings": {**SETTINGS, **settings}})


def test_a_distribution_that_is_not_supported(site: Site) -> None:
    told = "41; supported are Debian 12"
    with replaced(site, "/etc/os-release", "ID=fedora\nNAME=Fedora\nVERSION_ID=41"):
        expect_refusal(site, told, "site.yml", NODE)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("==1.0\n", "Invalid requirement"),
        ("./absent-1.0-py3-none-any.whl\n", "absent-1.0-py3-none-any.whl"),
    ],
)
def test_requirements_that_cannot_be_had(site: Site, tmp_path: Path, text: str, told: str) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(text)
    app = {**APP, "requirements": str(requirements)}
    expect_refusal(site, told, "deploy_app.yml", {"tfnz_apps": [app]})
