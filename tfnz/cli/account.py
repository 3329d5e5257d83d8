"""`tfnz account`: the key pairs by which locations know the user."""

from __future__ import annotations

import getpass
import re
import socket
from typing import Any

import click

from tfnz import accounts
from tfnz.protocol.errors import InvalidArgument, NoAccount

from .output import print_fields, print_json, print_table, say
from .settings import debug_option, json_option


@click.group()
def account() -> None:
    """Make and show accounts. None is needed to use the node of this machine through its socket."""


def _convert_key(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
    try:
        return accounts.parse_key(value) if value is not None else None
    except InvalidArgument as exc:
        raise click.BadParameter(f"{exc}; tfnz-node key prints it on the node") from exc


@account.command(
    epilog="""\b
Nothing is overwritten unless --overwrite is given: a lost secret key cannot be had again. Files are made in ~/.20ft (or
$TFNZ_HOME) for their owner alone. --json prints an object as `tfnz account show --json` does.

\b
Examples:
  tfnz account create node1.example.com --server-key "$(ssh root@node1.example.com tfnz-node key)"
  tfnz account show node1.example.com --json | jq -r .public_key
""",
)
@click.argument("location")
@click.option(
    "--server-key",
    callback=_convert_key,
    metavar="KEY",
    help="The location's public key, as `tfnz-node key` prints it on a node. It can be added later with "
    "`tfnz account trust`.",
)
@click.option(
    "--default/--no-default",
    "make_default",
    default=None,
    help="Whether this is the location that is meant when none is named.  [default: if there is no other]",
)
@click.option("--overwrite", is_flag=True, help="Replace an account that is there. Its key is lost.")
@json_option
@debug_option
def create(
    location: str, server_key: bytes | None, make_default: bool | None, overwrite: bool, as_json: bool
) -> None:
    """Make a key pair for LOCATION, and say how to have it authorised there."""
    made = accounts.create_account(location, server_key=server_key, overwrite=overwrite)
    if make_default or (make_default is None and accounts.default_location() is None):
        accounts.set_default_location(made.name)
    if as_json:
        print_json(_describe(made))
        return
    _print(made)
    say(f"\nNow, as root on a node of {made.name}:")
    say(f"  tfnz-node account authorise {accounts.encode_key(made.public)} --name {_suggest_name()}")
    if made.server is None:
        say("and here, with the public key that this command shows there: tfnz-node key")
        say(f"  tfnz account trust {made.name} KEY")


@account.command()
@click.argument("location")
@click.argument("server_key", metavar="KEY", callback=_convert_key)
@click.option("--overwrite", is_flag=True, help="Replace another key that is pinned already.")
@debug_option
def trust(location: str, server_key: bytes, overwrite: bool) -> None:
    """Pin KEY as the public key of LOCATION.

    Only a node that has the secret half of KEY is talked to. `tfnz-node key` prints it on the node.
    """
    pinned = accounts.pin_server_key(location, server_key, overwrite=overwrite)
    say(f"{pinned.name} is trusted by its key {accounts.fingerprint(server_key)}")


@account.command(
    epilog="""\b
The secret key is never shown. --json prints an object with the keys location, public_key, fingerprint, server_key (or
null), server_fingerprint (or null), default (true or false) and files (an object of paths).
""",
)
@click.argument("location", required=False)
@json_option
@debug_option
def show(location: str | None, as_json: bool) -> None:
    """Show the account for LOCATION, or for the default one: keys, fingerprints and files."""
    found = accounts.find_account(location)
    if found is None:
        raise NoAccount(_explain_no_default())
    if as_json:
        print_json(_describe(found))
    else:
        _print(found)


@account.command(
    name="ls",
    epilog="--json prints an array of objects with the keys location and default (true or false).",
)
@json_option
@debug_option
def list_(as_json: bool) -> None:
    """List the locations there are accounts for."""
    default = accounts.default_location()
    locations = accounts.all_locations()
    if as_json:
        print_json([{"location": name, "default": name == default} for name in locations])
    else:
        print_table(("LOCATION", "DEFAULT"), [(name, "yes" if name == default else "") for name in locations])


@account.command()
@click.argument("location")
@debug_option
def default(location: str) -> None:
    """Make LOCATION the one that is meant when none is named."""
    accounts.set_default_location(location)


def _describe(found: accounts.Account) -> dict[str, Any]:
    files = accounts.account_files(found.name)
    if found.server is None:
        del files["server"]
    return {
        "location": found.name,
        "public_key": accounts.encode_key(found.public),
        "fingerprint": accounts.fingerprint(found.public),
        "server_key": accounts.encode_key(found.server) if found.server else None,
        "server_fingerprint": accounts.fingerprint(found.server) if found.server else None,
        "default": accounts.default_location() == found.name,
        "files": {what: str(path) for what, path in files.items()},
    }


def _print(found: accounts.Account) -> None:
    facts = _describe(found)
    fields = [
        ("location", f"{found.name} (the default)" if facts["default"] else found.name),
        ("public key", facts["public_key"]),
        ("fingerprint", facts["fingerprint"]),
        ("server key", facts["server_key"] or "not known yet"),
    ]
    if facts["server_fingerprint"]:
        fields.append(("server fingerprint", facts["server_fingerprint"]))
    fields += [(f"{what} file", path) for what, path in facts["files"].items()]
    print_fields(fields)


def _explain_no_default() -> str:
    there_are = ", ".join(accounts.all_locations())
    if not there_are:
        return "there are no accounts yet; make one with: tfnz account create LOCATION"
    return f"there is no default location: name one of {there_are}, or choose with: tfnz account default LOCATION"


def _suggest_name() -> str:
    """A name for the account that tells an administrator whose it is, and needs no quoting."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user has no name
        user = "user"
    return re.sub(r"[^a-z0-9._-]+", "-", f"{user}-{socket.gethostname()}".lower()).strip("-._")
