"""`med models info`: the details of one model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import fill

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES
from medcli.zoo.catalog import Entry, as_row, find, where

HELP = "Show the details of a model: purpose, network, source, licences, scores."
WIDTH = 100
INDENT = 18


@click.command(name="info", help=HELP, epilog=EXIT_CODES)
@click.argument("name", metavar="ID", shell_complete=options.complete_id)
@click.option("--json", "as_object", is_flag=True, help="As a JSON object.")
def command(name: str, as_object: bool) -> None:
    entry = find(name)
    if as_object:
        click.echo(json.dumps(as_row(entry) | {"where": where(entry)}, indent=2, ensure_ascii=False))
        return
    for label, value in facts(entry):
        start = f"{label:<{INDENT}}"
        click.echo(fill(value, WIDTH, initial_indent=start, subsequent_indent=" " * INDENT, break_on_hyphens=False))


def facts(entry: Entry) -> Iterator[tuple[str, str]]:
    """(label, value) in order of interest, without empty ones."""
    yield "model", f"{entry.id}: {entry.title}"
    yield "", entry.summary
    yield "removes", entry.noise
    yield from _capabilities(entry)
    yield "domain", entry.domain
    yield from _source(entry)
    yield "licence", f"{entry.licence} (weights)"
    yield "", f"{entry.data_licence} (training data)"
    yield "trained on", ", ".join(entry.training_data)
    yield "trained by", ", recipe ".join(filter(None, (entry.method, entry.recipe)))
    yield from _network(entry)
    for label, (protocol, score) in zip(["scores"] + [""] * len(entry.scores), entry.scores.items(), strict=False):
        yield label, f"{score:<7g}{protocol}"
    if not entry.scores:
        yield "scores", "not known"
    if entry.citation:
        yield "cite", entry.citation


def _capabilities(entry: Entry) -> Iterator[tuple[str, str]]:
    if not entry.noises:
        return
    from medcli.zoo.capabilities import capabilities_of  # imports torch

    if words := str(capabilities_of(entry)):
        yield "and", words


def _source(entry: Entry) -> Iterator[tuple[str, str]]:
    hub = entry.hub
    yield "where", where(entry) + (f", {entry.path}" if hub is None else "")
    if hub is not None:
        yield "from", f"{hub.kind} {hub.repo} on the Hugging Face Hub, {hub.file}"
        yield "revision", hub.revision
    yield "size", entry.size
    yield "sha256", entry.sha256


def _network(entry: Entry) -> Iterator[tuple[str, str]]:
    config = ", ".join(f"{key} {value}" for key, value in entry.config.items())
    yield "network", entry.architecture + (f": {config}" if config else "")
    yield "applied", entry.strategy
    low, high = entry.value_range
    yield "images", f"{entry.channels} channels, values from {low:g} to {high:g}, sides multiples of {entry.multiple}"
    yield "sees", f"{entry.receptive_field} pixels to each side"
    yield "costs", f"{entry.parameters:,} parameters, {entry.macs_per_pixel:,} multiplications per pixel"
    words = {True: "trained on", False: "not trained on, hardly changed", None: "not measured"}
    yield "gray images", "the only kind" if entry.channels == 1 else words[entry.gray]
    yield "half precision", "same results" if entry.half_safe else "not verified, not used"
