"""Groups whose commands are imported when they are called, so that help, completion and errors cost nothing."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from medcli.registry import nearest

EXIT_CODES = """\b
Exit codes:
  0    done
  1    error: nothing was done
  2    usage error
  3    some files failed; the others are done, and the summary says why
  130  interrupted (Ctrl-C); 143 where the system ended it (SIGTERM)
"""


class Lazy(NamedTuple):
    """A command that is not imported yet: where it lives, as `module:attribute`, and its line in the group's help."""

    home: str
    help: str


class LazyGroup(click.Group):
    """table: the group's commands by name."""

    def __init__(self, *args: Any, table: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name].home.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.table and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command '{args[0]}'. {self.hint(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def hint(self, name: str) -> str:
        """What may have been meant by a name that is no command."""
        return nearest(name, self.table)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self.table.items()])
