"""`med models verify`: checks weights and their results"""

from __future__ import annotations

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.cli.progress import message_lines
from medcli.errors import MedcliError, ModelError
from medcli.zoo import catalog
from medcli.zoo.catalog import Entry

HELP = """Check weights against checksum and test vector.

The checksum shows that the weights are those that were published. The test vector, a tiny image and its result, shows
that the model gives the same result on this machine. Without ID, all models on this machine are checked. No network is
needed; the exit code is 1 if a check fails.
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
            click.echo(f"{entry.id}: checksum ok, {verified(entry)}")
        except MedcliError as error:
            bad += 1
            click.echo("\n".join(message_lines(error)), err=True)
    if bad:
        ctx.exit(MedcliError.exit_code)


def verified(entry: Entry) -> str:
    """The result of the test vector. Raises ModelError if a check fails."""
    from medcli.zoo import test_vectors, weights

    network, _ = weights.load_network(catalog.ours(entry, catalog.verify(entry)))
    if entry.tolerance is None:
        return "loads into its network; there is no test vector"
    difference = test_vectors.check(entry.vector, network)
    if not difference <= entry.tolerance:
        raise ModelError(
            f"'{entry.id}' does not reproduce its test vector: results differ by {difference:.3g} grey levels of 255, "
            f"and {entry.tolerance:g} are allowed.",
            "Reinstall medcli and PyTorch; if that does not help, please report it with your hardware.",
        )
    return f"test vector matches within {difference:.1g} grey levels of 255 ({entry.tolerance:g} allowed)"
