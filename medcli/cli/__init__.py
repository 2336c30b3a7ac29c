"""`med`: the door. Commands are imported when they are called; `med --help` imports none of them, and no torch."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import click

from medcli import __version__
from medcli.cli.progress import letter
from medcli.errors import MedcliError
from medcli.registry import nearest


class Lazy(NamedTuple):
    """A command that is not imported yet: where it lives, as `module:attribute`, and its line in `med --help`."""

    home: str
    help: str


COMMANDS: Mapping[str, Lazy] = {
    "denoise": Lazy("medcli.cli.denoise:command", "Remove the noise from pictures, folders or a pipe."),
    "train": Lazy("medcli.cli.train:command", "Train a denoiser, or go on training one."),
    "synth-pairs": Lazy("medcli.cli.synth_pairs:command", "Make the noisy mate of every clean picture."),
    "eval": Lazy("medcli.cli.eval:command", "Measure denoisers on pictures whose clean mate is known."),
    "models": Lazy("medcli.cli.models:command", "The models: what there is, fetch, check, pack, publish."),
}

EXIT_CODES = """\b
Exit codes:
  0    done
  1    error: nothing was done
  2    the command line makes no sense
  3    some files failed; the others are done, and the summary says why
  130  interrupted (Ctrl-C); 143 where the system ended it (SIGTERM)
"""

EXAMPLES = """\b
Examples:
  med denoise photo.jpg                   writes photo.denoised.jpg beside it
  med denoise photo.tif -o clean.tif --strength 0.8
  med denoise shoot/ -o clean/ --recursive
  med denoise - < noisy.png > clean.png
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].home.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            hint = f"Did you mean 'med denoise {name}'?" if Path(name).exists() else nearest(name, COMMANDS)
            raise click.UsageError(f"There is no command '{name}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    help=f"Denoise pictures.\n\n{EXAMPLES}",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "MED"},
)
@click.version_option(__version__, "--version", prog_name="med", message="%(prog)s %(version)s")
@click.pass_context
def med(ctx: click.Context) -> None:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


def main() -> NoReturn:
    """Runs `med` with the arguments of this process and ends it with a documented exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = int(med.main(prog_name="med", standalone_mode=False) or 0)
    except click.Abort:
        click.echo("interrupted", err=True)
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except MedcliError as error:
        click.echo("\n".join(letter(error)), err=True)
        code = error.exit_code
    except OSError as error:  # asked too early or too late to be anybody's: a folder without rights, an odd name
        click.echo("\n".join(letter(MedcliError(f"{error.filename}: {error.strerror}."))), err=True)
        code = MedcliError.exit_code
    sys.exit(code)


def _terminate(number: int, frame: object) -> NoReturn:
    """SIGTERM unwinds like any exit, so that temporary files are removed."""
    raise SystemExit(128 + number)
