"""The options that all commands share, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import click

from .sdk import Connect, SomeLocation, Target, connect
from .stdio import Stdio, find_stdio

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Settings:
    """What holds for one run of the command; tests bring their own `connect` and `stdio`."""

    target: Target = field(default_factory=Target)
    debug: bool = False
    connect: Connect = connect
    stdio: Callable[[], Stdio] = find_stdio

    def open(self) -> AbstractContextManager[SomeLocation]:
        """A session with the location that the options mean."""
        target = self.target
        given = [
            option
            for option, value in (
                ("--location", target.location),
                ("--socket", target.socket),
                ("--embedded", target.embedded),
            )
            if value
        ]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} name different nodes: give one of them")
        if target.data_dir and not target.embedded:
            raise click.UsageError("--data-dir is the directory of a private node: add --embedded")
        return self.connect(target)


def _set_target(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:  # an option of the command overrides the same one before it
            settings = ctx.ensure_object(Settings)
            settings.target = replace(settings.target, **{name: value})

    return callback


def _set_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Settings).debug = True


def debug_option(command: Command) -> Command:
    """Adds --debug, for commands that need no connection."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        help="Show the traceback with every error.",
    )(command)


def connection_options(command: Command) -> Command:
    """Adds --location, --socket and --debug."""
    command = debug_option(command)
    command = click.option(
        "--socket",
        metavar="PATH",
        expose_value=False,
        callback=_set_target("socket"),
        help="Use the node of this machine that listens on the unix socket PATH. "
        "Without this and --location, the default location is used, or the node of this machine.",
    )(command)
    return click.option(
        "--location",
        metavar="NAME",
        expose_value=False,
        callback=_set_target("location"),
        help="Use the account for the location NAME, as `tfnz account ls` shows them.",
    )(command)


def embedded_options(command: Command) -> Command:
    """Adds --embedded and --data-dir."""
    command = click.option(
        "--data-dir",
        metavar="DIR",
        expose_value=False,
        type=click.Path(file_okay=False),
        callback=_set_target("data_dir"),
        help="Where the private node of --embedded keeps its images.  [default: /var/lib/20ft/embedded]",
    )(command)
    return click.option(
        "--embedded",
        is_flag=True,
        expose_value=False,
        callback=_set_target("embedded"),
        help="Start a private node for as long as this command runs, and use that. Needs root.",
    )(command)


def env_option(command: Command) -> Command:
    """Adds -e, which the command receives as `env`; `parse_env` says what it means."""
    return click.option(
        "-e",
        "--env",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="Set an environment variable; without =VALUE, to the value it has here. Repeatable.",
    )(command)


def json_option(command: Command) -> Command:
    """Adds --json, which the command receives as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document, on one line, instead."
    )(command)
