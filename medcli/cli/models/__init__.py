"""`med models`: the zoo from the shell. Its commands are imported when they are called."""

from __future__ import annotations

from collections.abc import Mapping

import click

from medcli.cli.lazy import EXIT_CODES, Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "list": Lazy("medcli.cli.models.list:command", "What models there are, and which are on this machine."),
    "info": Lazy("medcli.cli.models.info:command", "All that the catalogue knows of a model."),
    "pull": Lazy("medcli.cli.models.pull:command", "Fetch models, to use them without a network from then on."),
    "verify": Lazy("medcli.cli.models.verify:command", "Check weights against their checksum and their test vector."),
    "path": Lazy("medcli.cli.models.path:command", "Where a model's weight file lies."),
    "rm": Lazy("medcli.cli.models.remove:command", "Remove fetched models from this machine."),
    "bundle": Lazy("medcli.cli.models.bundle:command", "Pack models for machines without a network."),
    "card": Lazy("medcli.cli.models.card:command", "A model's page, in Markdown."),
    "import": Lazy("medcli.cli.models.convert:command", "Turn a checkpoint of somebody else into a weight file."),
    "export": Lazy("medcli.cli.models.export:command", "Write a model for other programs: ONNX, TorchScript."),
    "publish": Lazy("medcli.cli.models.publish:command", "Publish a trained model on the Hugging Face Hub."),
}

HELP = """The models: what there is, what is here, what may be done with it.

\b
Examples:
  med models list                       what there is
  med models info photo                 what it is for, its licence, its scores
  med models pull nafnet-sidd-32        fetched once, used offline for ever
  med models bundle stick/              for a machine without a network; there:
  med models pull --from-bundle stick/

Some models come with medcli; the others are fetched from the Hugging Face Hub into its usual cache (HF_HOME,
HF_HUB_CACHE), at a fixed revision and against a checksum. What comes from a bundle, and what was converted from a
foreign form, is kept in the user's data folder, or below MED_HOME.
"""


@click.group(name="models", cls=LazyGroup, table=COMMANDS, help=HELP, epilog=EXIT_CODES)
def command() -> None:
    """Nothing of its own."""
