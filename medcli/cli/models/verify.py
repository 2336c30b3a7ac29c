"""`med models verify`: are the weights what was published, and do they still do what they did?"""

from __future__ import annotations

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.cli.progress import message_lines
from medcli.errors import MedcliError, ModelError
from medcli.zoo import catalog
from medcli.zoo.catalog import Entry

HELP = """Check weights against their checksum and their test vector.

The checksum says that they are the bytes that were published. The test vector, a tiny image and what the model makes
of it, says that this machine still does with them what was done then. Without ID, every model on this machine is
checked. No network is needed; the exit code is 1 if a model is not as it should be.
"""


@click.command(name="verify", help=HELP, epilog=EXIT_CODES)
@click.argument("names", metavar="[ID]...", nargs=-1, shell_complete=options.complete_id)
@options.threads()
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    known = catalog.entries()
    chosen = [catalog.find(name, known) for name in dict.fromkeys(names)]
    bad = 0
    for entry in chosen or filter(catalog.is_here, known.values()):
        try:
            click.echo(f"{entry.id}: whole, {verified(entry)}")
        except MedcliError as error:
            bad += 1
            click.echo("\n".join(message_lines(error)), err=True)
    if bad:
        ctx.exit(MedcliError.exit_code)


def verified(entry: Entry) -> str:
    """What the test vector told of these weights. Raises ModelError where anything is not as it should be."""
    from medcli.zoo import test_vectors, weights

    network, _ = weights.load_network(catalog.ours(entry, catalog.verify(entry)))
    if entry.tolerance is None:
        return "fits its network; there is no test vector"
    difference = test_vectors.check(entry.vector, network)
    if not difference <= entry.tolerance:
        raise ModelError(
            f"'{entry.id}' gives other images than it should: they differ by {difference:.3g} grey levels of 255, "
            f"and {entry.tolerance:g} are allowed.",
            "Install medcli and PyTorch again; if that does not help, please report the machine.",
        )
    return f"its test vector agrees within {difference:.1g} grey levels of 255 ({entry.tolerance:g} allowed)"
