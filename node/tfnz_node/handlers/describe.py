"""An image's configuration in the words that `docker inspect` has made common."""

from __future__ import annotations

from typing import Any

from tfnz_node.images.record import ImageConfig


def describe_config(config: ImageConfig) -> dict[str, Any]:
    """The parts that are set, by their usual names."""
    parts: dict[str, Any] = {
        "Entrypoint": config.entrypoint,
        "Cmd": config.cmd,
        "Env": config.env,
        "User": config.user,
        "WorkingDir": config.workdir,
        "StopSignal": config.stop_signal,
        "ExposedPorts": {port: {} for port in config.exposed},
        "Labels": config.labels,
    }
    return {name: value for name, value in parts.items() if value}
