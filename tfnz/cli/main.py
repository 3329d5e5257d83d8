"""The `tfnz` command itself: its nouns and verbs, and what happens when one of them fails."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Any

import click

from tfnz.protocol.errors import TfnzError

from .account import account
from .deploy import apps, deploy, undeploy
from .failures import FAILED, report
from .firewall import firewall
from .image import image
from .interrupts import Interrupted
from .logs import logs
from .node import node
from .ps import ps
from .run import run
from .settings import Settings, connection_options
from .tunnel import tunnel


class Commands(click.Group):
    """A group that tells every failure in a line or two, and leaves no traceback unless asked."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Interrupted as exc:
            ctx.exit(exc.exit_code)
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            _abandon_stdout()
            ctx.exit(141)
        except Exception as exc:
            report(exc, debug=ctx.ensure_object(Settings).debug)
            if not isinstance(exc, TfnzError | OSError):
                ctx.exit(70)
            ctx.exit(FAILED)


def _abandon_stdout() -> None:
    """Lets the interpreter end without another try at writing what nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def find_version() -> str:
    """The release of this distribution."""
    try:
        return importlib.metadata.version("tfnz")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Data goes to standard output and words to standard error. With --json a command prints one JSON document on one line.

\b
Exit codes (those of `tfnz run` and `tfnz tunnel` are in their own help):
  0    done
  1    it could not be done; one line on standard error says why, and one what to try
  2    the command line makes no sense
  70   a fault of tfnz itself
  130  interrupted (Ctrl-C); 143 terminated

\b
Environment and files:
  TFNZ_HOME         directory of the accounts  [default: ~/.20ft]
  /run/20ft/node.sock  the node of this machine, for root and the group tfnz
""",
)
@click.version_option(find_version(), message="tfnz %(version)s")
@connection_options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Containers that live as long as the command or program that made them."""
    ctx.ensure_object(Settings)


for command in (run, ps, tunnel, image, firewall, account, node, deploy, apps, logs, undeploy):
    cli.add_command(command)


def main() -> None:
    """Runs the command that the arguments name, and exits."""
    cli(prog_name="tfnz")
