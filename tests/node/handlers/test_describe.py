"""An image's configuration in the words that everybody uses."""

from __future__ import annotations

from tfnz_node.handlers.describe import describe_config
from tfnz_node.images.record import ImageConfig


def test_everything_has_its_usual_name() -> None:
    config = ImageConfig(
        entrypoint=["/e"],
        cmd=["c"],
        env=["A=1"],
        user="web",
        workdir="/srv",
        stop_signal="SIGQUIT",
        exposed=["80/tcp"],
        labels={"a": "b"},
    )
    assert describe_config(config) == {
        "Entrypoint": ["/e"],
        "Cmd": ["c"],
        "Env": ["A=1"],
        "User": "web",
        "WorkingDir": "/srv",
        "StopSignal": "SIGQUIT",
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"a": "b"},
    }


def test_what_is_not_set_is_left_out() -> None:
    assert describe_config(ImageConfig()) == {"StopSignal": "SIGTERM"}
