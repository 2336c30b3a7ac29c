"""The commands as text for other places than a terminal: manual pages, and Markdown for the documentation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

import click

from medcli import __version__

WIDTH = 100


class CommandText(NamedTuple):
    """One command. words: as it is typed, `med models pull`. context: in which its help is written."""

    words: str
    command: click.Command
    context: click.Context

    @property
    def usage(self) -> str:
        """`med models pull [OPTIONS] [NAME]...`"""
        pieces = self.command.collect_usage_pieces(self.context)
        return " ".join([self.words, *pieces])

    @property
    def options(self) -> list[tuple[str, str]]:
        """(`-o, --output OUTPUT`, what it does)"""
        records = (parameter.get_help_record(self.context) for parameter in self.command.get_params(self.context))
        return [record for record in records if record]

    @property
    def subcommands(self) -> list[tuple[str, str]]:
        """(name, what it does) of a group's commands."""
        if not isinstance(self.command, click.Group):
            return []
        return [(entry.words.rpartition(" ")[2], entry.summary) for entry in children(self)]

    @property
    def summary(self) -> str:
        """The first sentence of its help."""
        first = inspect.cleandoc(self.command.help or "").partition("\n\n")[0]
        return " ".join(first.split())


def entries(command: click.Command, words: str = "med") -> Iterator[CommandText]:
    """A command and all below it, each after the group that it belongs to."""
    entry = CommandText(words, command, click.Context(command, info_name=words, terminal_width=WIDTH))
    yield entry
    for child in children(entry):
        yield from entries(child.command, child.words)


def children(entry: CommandText) -> list[CommandText]:
    """The commands of a group, in its order."""
    if not isinstance(entry.command, click.Group):
        return []
    found = [
        (name, entry.command.get_command(entry.context, name)) for name in entry.command.list_commands(entry.context)
    ]
    return [
        CommandText(f"{entry.words} {name}", command, click.Context(command, info_name=f"{entry.words} {name}"))
        for name, command in found
        if command is not None and not command.hidden
    ]


def paragraphs(text: str | None) -> Iterator[tuple[bool, list[str]]]:
    """(whether its lines are kept as they are, lines) of each paragraph; click marks such ones with `\\b`."""
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        lines = part.splitlines()
        if lines and lines[0] == "\b":
            yield True, lines[1:]
        elif lines:
            yield False, lines


def markdown(entry: CommandText) -> str:
    """A section of the command reference."""
    parts = [f"## `{entry.words}`", f"```text\n{entry.usage}\n```"]
    for kept, lines in [*paragraphs(entry.command.help), *paragraphs(entry.command.epilog)]:
        parts.append("```text\n" + "\n".join(lines) + "\n```" if kept else "\n".join(map(_escaped, lines)))
    for title, rows in (("option", entry.options), ("command", entry.subcommands)):
        if rows:
            cells = [f"| `{name.replace('|', chr(92) + '|')}` | {_escaped(text)} |" for name, text in rows]
            parts.append("\n".join([f"| {title} | |", "|---|---|", *cells]))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Plain text as Markdown that shows the same."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", text)


def manual_page(entry: CommandText) -> str:
    """A page for man(1), in roff with the macros of man(7)."""
    name = entry.words.replace(" ", "-")
    lines = [
        f'.TH "{name.upper()}" "1" "" "medcli {__version__}" "medcli"',
        ".SH NAME", f"{_roff(name)} \\- {_roff(entry.summary)}",
        ".SH SYNOPSIS", f".B {_roff(entry.words)}", _roff(entry.usage.removeprefix(entry.words).strip()),
        ".SH DESCRIPTION", *_roff_paragraphs(entry.command.help),
    ]  # fmt: skip
    for title, rows in (("OPTIONS", entry.options), ("COMMANDS", entry.subcommands)):
        if rows:
            lines.append(f".SH {title}")
        for left, right in rows:
            lines += [".TP", f".B {_roff(left)}", _roff(right)]
    if entry.command.epilog:
        lines += [".SH EXIT STATUS", *_roff_paragraphs(entry.command.epilog)]
    return "\n".join(lines) + "\n"


def _roff_paragraphs(text: str | None) -> Iterator[str]:
    for kept, lines in paragraphs(text):
        yield ".PP"
        yield from [".nf", *map(_roff, lines), ".fi"] if kept else map(_roff, lines)


def _roff(text: str) -> str:
    """A line of text; backslashes, hyphens, and full stops and quotes at its start mean something to roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
