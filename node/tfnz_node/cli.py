"""The command ``tfnz-node``: serve, examine the host, and say who may connect."""

from __future__ import annotations

import base64
import gc
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec

from tfnz.protocol.errors import StartFailed, TfnzError

from .accounts import Accounts
from .config import ConfigError, NodeConfig, find_config
from .host_errors import HOST_ERRORS
from .keys import IDENTITY_FILE, SEAL_FILE, load_keys
from .loop_watch import watch_loops
from .notify import tell_parent_failed
from .store.sqlite import open_store


class Fatal(click.ClickException):
    """One line on standard error, and exit code 1."""


class Commands(click.Group):
    """A group whose commands an interrupt ends without a word, with a shell's code for that."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed (standard error says why), 2 wrong usage, 130 interrupted.",
)
@click.version_option(package_name="tfnz", message="tfnz-node %(version)s")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file, TOML.  [default: /etc/20ft/node.toml, when there is one]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where state, images and containers live; replaces data_dir of the configuration.",
)
@click.pass_context
def main(context: click.Context, config_path: Path | None, data_dir: Path | None) -> None:
    """The 20ft node: runs containers for the programs of this machine and of authorised accounts elsewhere."""
    try:
        config = find_config(config_path)
    except ConfigError as exc:
        raise Fatal(str(exc)) from exc
    if data_dir is not None:
        config = msgspec.structs.replace(config, data_dir=data_dir.absolute())
    context.obj = config


@main.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="As the option of the same name before the command.",
)
@click.option(
    "--socket", type=click.Path(path_type=Path), help="Unix socket; replaces socket of the configuration."
)
@click.option(
    "--listen", multiple=True, help="tcp://ADDRESS:PORT for clients elsewhere; replaces listen. '' is none."
)
@click.option(
    "--embedded",
    is_flag=True,
    help="For a program that runs a node for itself: end when standard input does.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log every step.")
@click.option(
    "--watch-loop",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="For debugging: log whatever holds up the event loop for longer than MS milliseconds.",
)
@click.pass_obj
def serve(
    config: NodeConfig,
    data_dir: Path | None,
    socket: Path | None,
    listen: tuple[str, ...],
    embedded: bool,
    verbose: bool,
    watch_loop: float | None,
) -> None:
    """Run the node until SIGTERM or SIGINT. Logs on standard error; tells systemd when it is ready.

    When it ends, its containers end with it; images stay.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        stream=sys.stderr,
        # To the journal, which has its own clock, without ours.
        format="%(levelname)s %(name)s: %(message)s"
        if "JOURNAL_STREAM" in os.environ
        else "%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if data_dir is not None:
        config = msgspec.structs.replace(config, data_dir=data_dir.absolute())
    if socket is not None:
        config = msgspec.structs.replace(config, socket=socket.absolute())
    if listen:
        config = msgspec.structs.replace(config, listen=tuple(one for one in listen if one))
    # Here, for no other command needs it. No garbage is looked for among what is here to stay, as in `tfnz_command`.
    gc.disable()
    from .daemon import run_daemon

    gc.enable()
    watch = nullcontext() if watch_loop is None else watch_loops(watch_loop / 1000)
    try:
        with watch:
            run_daemon(config, embedded=embedded)
    except HOST_ERRORS as exc:
        if embedded:
            tell_parent_failed(
                exc if isinstance(exc, TfnzError) else StartFailed(f"the node cannot start: {exc}")
            )
        raise Fatal(f"{exc}\nTry: tfnz-node doctor") from exc


@main.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list of findings on standard output.")
@click.pass_obj
def doctor(config: NodeConfig, as_json: bool) -> None:
    """Examine this host and say what to do about whatever is missing. Exits 1 when containers cannot run."""
    # Here, for a daemon that is restarted is waited for, and does not need it.
    from .doctor.check import check_host
    from .doctor.findings import is_fit, render_findings

    findings = check_host(config)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings), indent=2))
    else:
        click.echo(render_findings(findings))
    if not is_fit(findings):
        sys.exit(1)


@main.command()
@click.pass_obj
def key(config: NodeConfig) -> None:
    """Print this node's public key, which clients need to be sure that they talk to this node.

    A node that has no keys yet is given them now.
    """
    files = [config.data_dir / IDENTITY_FILE, config.data_dir / SEAL_FILE]
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = [file for file in files if not file.exists()]
        keys = load_keys(config.data_dir)
    except HOST_ERRORS as exc:
        raise Fatal(str(exc)) from exc
    if made:
        click.echo(f"made the node's keys: {', '.join(map(str, made))}", err=True)
    click.echo(base64.b64encode(bytes(keys.identity.public_key)).decode())


@main.group()
def account() -> None:
    """Who may connect over the network. Changes take effect at once, also while the node runs."""


@account.command()
@click.argument("public_key")
@click.option("--name", default="", help="What to call its holder, in lists and logs.")
@click.pass_obj
def authorise(config: NodeConfig, public_key: str, name: str) -> None:
    """Let the holder of PUBLIC_KEY (as `tfnz account show` prints it) connect."""
    with _accounts(config) as accounts:
        entry = accounts.authorise(public_key, name)
    click.echo(f"authorised {entry.public_key} {entry.name}".rstrip())


@account.command()
@click.argument("public_key")
@click.pass_obj
def revoke(config: NodeConfig, public_key: str) -> None:
    """No longer let the holder of PUBLIC_KEY connect; its sessions end, with all they own."""
    with _accounts(config) as accounts:
        if not accounts.revoke(public_key):
            raise Fatal(f"{public_key} was not authorised")
    click.echo(f"revoked {public_key}")


@account.command("ls")
@click.option("--json", "as_json", is_flag=True, help="A JSON list on standard output.")
@click.pass_obj
def list_accounts(config: NodeConfig, as_json: bool) -> None:
    """List the authorised keys."""
    with _accounts(config) as accounts:
        entries = accounts.list()
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(entries), indent=2))
        return
    for entry in entries:
        click.echo(f"{entry.public_key}  {entry.name}")


@contextmanager
def _accounts(config: NodeConfig) -> Iterator[Accounts]:
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(open_store(config.data_dir / "node.sqlite")) as store:
            yield Accounts(store)
    except HOST_ERRORS as exc:
        raise Fatal(str(exc)) from exc
