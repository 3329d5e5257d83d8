"""Commands that last: whatever may end them has an exit code of its own."""

from __future__ import annotations

from typing import Any

import click

from .failures import RUN_FAILED, choose_run_code, report
from .interrupts import Interrupted
from .settings import Settings


class LastingUsageError(click.UsageError):
    """A command line of a lasting command that makes no sense."""

    exit_code = RUN_FAILED


class LastingCommand(click.Command):
    """A command whose every failure has an exit code that no program in a container is likely to use."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as exc:
            raise LastingUsageError(exc.format_message(), exc.ctx) from exc

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as exc:
            raise LastingUsageError(exc.format_message(), exc.ctx) from exc
        except Interrupted as exc:
            ctx.exit(exc.exit_code)
        except Exception as exc:
            if isinstance(exc, click.exceptions.Exit | click.Abort | BrokenPipeError):
                raise
            report(exc, debug=ctx.ensure_object(Settings).debug)
            ctx.exit(choose_run_code(exc))
