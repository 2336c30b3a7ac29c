"""`med`: the command group. Commands are imported when they are called; `med --help` imports none, and no torch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from medcli import __version__, cpu
from medcli.cli.lazy import EXIT_CODES, Lazy, LazyGroup
from medcli.cli.progress import message_lines
from medcli.errors import as_medcli_error

COMMANDS: Mapping[str, Lazy] = {
    "denoise": Lazy("medcli.cli.denoise:command", "Remove the noise from images, folders or a pipe."),
    "inspect": Lazy("medcli.cli.inspect:command", "Measure the noise of images and propose a model."),
    "compare": Lazy("medcli.cli.compare:command", "Show models and strengths side by side, before a long run."),
    "adapt": Lazy("medcli.cli.adapt:command", "Let a model learn from your own noisy images, then denoise them."),
    "train": Lazy("medcli.cli.train:command", "Train a denoiser, or continue training one."),
    "synth-pairs": Lazy("medcli.cli.synth_pairs:command", "Make a noisy copy of every clean image."),
    "eval": Lazy("medcli.cli.eval:command", "Measure denoisers on pairs of noisy and clean images."),
    "models": Lazy("medcli.cli.models:command", "List, download, check, convert and publish models."),
    "doctor": Lazy("medcli.cli.doctor:command", "Check the installation and measure its speed."),
    "completion": Lazy("medcli.cli.completion:command", "Print the completion script of a shell."),
    "manual": Lazy("medcli.cli.manual:command", "Write manual pages."),
}

EXAMPLES = """\b
Examples:
  med denoise photo.jpg                   writes photo.denoised.jpg beside it
  med denoise photo.tif -o clean.tif --strength 0.8
  med denoise shoot/ -o clean/ --recursive
  med denoise - < noisy.png > clean.png
"""


READER, PATIENCE = "med-read", 0.2  # threads of `medcli.images.reader`; seconds


class CommandGroup(LazyGroup):
    """A file name in place of a command: `med denoise` is suggested."""

    def hint(self, name: str) -> str:
        return f"Did you mean 'med denoise {name}'?" if Path(name).exists() else super().hint(name)


@click.group(
    cls=CommandGroup,
    table=COMMANDS,
    help=f"Denoise images.\n\n{EXAMPLES}",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "MED"},
)
@click.version_option(__version__, "--version", prog_name="med", message="%(prog)s %(version)s")
@click.pass_context
def med(ctx: click.Context) -> None:
    import logging  # no command, no import

    if not logging.getLogger().handlers:  # else Python prints what libraries log to standard error
        logging.getLogger().addHandler(logging.NullHandler())
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


def main() -> NoReturn:
    """Runs `med` with the arguments of this process and ends it with a documented exit code."""
    cpu.set_openmp_defaults()
    cpu.share_heap()
    _silence_libraries()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _code()
    except SystemExit as stopped:
        _abandon_readers(stopped.code)
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # everything is reported; the interpreter may exit undisturbed
            signal.signal(number, signal.SIG_IGN)
    _abandon_readers(code)
    sys.exit(code)


def _abandon_readers(code: object) -> None:
    """Exits at once if a thread still decodes, perhaps without end: the interpreter would wait for it.

    Everything else is cleaned up by now, and a reader holds nothing that must be saved.
    """
    readers = [thread for thread in threading.enumerate() if thread.name.startswith(READER)]
    for thread in readers:
        thread.join(PATIENCE)
    if any(thread.is_alive() for thread in readers):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                if stream is not None:
                    stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def _silence_libraries() -> None:
    """Hides warnings of libraries; med reports what matters itself. `python -W` and their own variables show them."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of processes that are started


def _code() -> int:
    try:
        return int(med.main(prog_name="med", standalone_mode=False) or 0)
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        if not (reported := as_medcli_error(error)):
            raise
        click.echo("\n".join(message_lines(reported)), err=True)
        return reported.exit_code


def _terminate(number: int, frame: object) -> NoReturn:
    """SIGTERM unwinds like any exit, so that temporary files are removed."""
    raise SystemExit(128 + number)
