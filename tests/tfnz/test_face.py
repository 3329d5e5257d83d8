"""Both faces have the same names, and the names of 1.3 are the same functions."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

import tfnz
from tfnz import aio, face
from tfnz.protocol.messages import ContainerInfo, ContainerList, ListContainers

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode

NAMES = ("Location", "Node", "Container", "ExternalContainer", "Process", "Tunnel")
PAIRS = [(getattr(tfnz, name), getattr(aio, name)) for name in NAMES]
IDS = [blocking.__name__ for blocking, _ in PAIRS]


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize(("blocking", "core"), PAIRS, ids=IDS)
def test_methods_have_the_same_names_and_parameters(blocking: type, core: type) -> None:
    methods = {name for name in public(core) if callable(getattr(core, name))}
    assert methods == {name for name in public(blocking) if callable(getattr(blocking, name))}
    for name in methods | {"__init__"} if blocking is tfnz.Location else methods:
        ours = inspect.signature(getattr(blocking, name)).parameters
        theirs = inspect.signature(getattr(core, name)).parameters
        assert [(one.name, one.kind, one.default) for one in ours.values()] == [
            (one.name, one.kind, one.default) for one in theirs.values()
        ], name


@pytest.mark.parametrize(("blocking", "core"), PAIRS, ids=IDS)
def test_everything_public_is_documented(blocking: type, core: type) -> None:
    for cls in (blocking, core):
        assert [name for name in public(cls) if not inspect.getdoc(getattr(cls, name))] == []


def test_attributes_have_the_same_names(location: tfnz.Location, scripted: ScriptedNode) -> None:
    info = ContainerInfo("A" * 22, "n1", "10.0.0.1", "i", "web", "running", 1.0, False)
    scripted.on(ListContainers, lambda id, body: scripted.reply(id, ContainerList([info])))
    container = location.node().spawn("busybox")
    process = container.spawn("sleep")
    tunnel = container.attach_tunnel(80)
    external = location.external_container("web")
    for one in (location, location.node(), container, external, process, tunnel):
        core: Any = one._core
        attributes = {name for name in vars(core) if not name.startswith("_")} | {
            name for name, member in inspect.getmembers_static(type(core)) if isinstance(member, property)
        }
        properties = {name for name in dir(type(one)) if isinstance(getattr(type(one), name), property)}
        assert {name for name in attributes if not name.startswith("_")} == properties


@pytest.mark.parametrize("module", [tfnz, aio])
def test_names_of_1_3_are_the_new_functions(module: Any) -> None:
    assert module.Node.spawn_container is module.Node.spawn
    assert module.Container.run_process is module.Container.run
    assert module.Container.spawn_process is module.Container.spawn


def test_both_packages_export_the_same_classes() -> None:
    assert {*NAMES, "Result", "Secret", "Exit", "Cause"} == set(aio.__all__)
    assert set(aio.__all__) <= set(tfnz.__all__)


def test_a_callback_is_found_again_as_it_was_given() -> None:
    assert face.find_callback(None) is None
    assert face.find_callback(print) is print
