"""`med completion`: the script that completes commands, options, models and files in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from medcli.cli.lazy import EXIT_CODES

HELP = """Print the completion script of a shell.

\b
  bash   med completion bash > ~/.local/share/bash-completion/completions/med
  zsh    med completion zsh > ~/.zfunc/_med       with fpath+=~/.zfunc before compinit in ~/.zshrc
  fish   med completion fish > ~/.config/fish/completions/med.fish

Then open a new shell: the Tab key completes commands, options, names of models and recipes, and files.
"""


@click.command(name="completion", help=HELP, epilog=EXIT_CODES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    from medcli.cli import med

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(med, {}, "med", "_MED_COMPLETE").source())
