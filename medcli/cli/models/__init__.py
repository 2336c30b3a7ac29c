"""`med models`: commands for the model zoo, imported when they are called."""

from __future__ import annotations

from collections.abc import Mapping

import click

from medcli.cli.lazy import EXIT_CODES, Lazy, LazyGroup

COMMANDS: Mapping[str, Lazy] = {
    "list": Lazy("medcli.cli.models.list:command", "List the models and where they are stored."),
    "info": Lazy("medcli.cli.models.info:command", "Show the details of a model."),
    "pull": Lazy("medcli.cli.models.pull:command", "Download models for offline use."),
    "verify": Lazy("medcli.cli.models.verify:command", "Check weights against checksum and test vector."),
    "path": Lazy("medcli.cli.models.path:command", "Print the path of a model's weight file."),
    "rm": Lazy("medcli.cli.models.remove:command", "Remove downloaded models."),
    "bundle": Lazy("medcli.cli.models.bundle:command", "Pack models for offline machines."),
    "card": Lazy("medcli.cli.models.card:command", "Print a model card in Markdown."),
    "import": Lazy("medcli.cli.models.convert:command", "Convert a checkpoint of another project."),
    "export": Lazy("medcli.cli.models.export:command", "Export a model to ONNX or TorchScript."),
    "publish": Lazy("medcli.cli.models.publish:command", "Publish a trained model on the Hugging Face Hub."),
}

HELP = """List, download, check, convert, export and publish models.

\b
Examples:
  med models list                       all models
  med models info photo                 purpose, licence, scores
  med models pull nafnet-sidd-32        download once, then use offline
  med models bundle stick/              for an offline machine; there:
  med models pull --from-bundle stick/

Some models are part of medcli; the others are downloaded from the Hugging Face Hub to its usual cache (HF_HOME,
HF_HUB_CACHE), with a fixed revision and checksum. Models from a bundle and converted models are stored in the user's
data folder, or in MED_HOME.
"""


@click.group(name="models", cls=LazyGroup, table=COMMANDS, help=HELP, epilog=EXIT_CODES)
def command() -> None:
    """Only a group."""
