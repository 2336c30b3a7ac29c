"""`med doctor`: what works here, what is missing, what is broken."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click

from medcli.cli import options
from medcli.cli.lazy import EXIT_CODES

HELP = """Check the installation and measure its speed.

\b
Examples:
  med doctor
  med doctor --json > report.json               for a report of a problem

Versions, devices, fast number formats, speed (two seconds), memory and limits, optional packages and how to get them,
models, folders, and files that killed runs have left. Nothing is sent anywhere; the Hub is contacted with --hub only.
Exit code 1 if something is broken.
"""
MARKS = {"ok": " ", "note": "-", "broken": "!"}


@click.command(name="doctor", help=HELP, epilog=EXIT_CODES)
@click.option("--hub", is_flag=True, help="Also try to reach the Hugging Face Hub.")
@click.option("--device", type=options.device, metavar="DEVICE", default="auto", show_default=True,
              help="On which speed is measured.")  # fmt: skip
@options.threads()
@click.option("--json", "as_object", is_flag=True, help="One JSON object on standard output.")
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> None:
    from medcli.api import load
    from medcli.batch.diagnosis import diagnose, environment

    found = []
    for finding in diagnose(partial(load, device=params["device"]), hub=params["hub"]):
        found.append(finding)
        if not params["as_object"]:
            click.echo(f"{MARKS[finding.status]} {finding.topic}: {finding.text}")
            if finding.hint:
                click.echo(f"    {finding.hint}")
    broken = [finding.topic for finding in found if finding.status == "broken"]
    if params["as_object"]:
        report = {"findings": [finding.as_row() for finding in found], "environment": environment()}
        click.echo(json.dumps(report | {"broken": broken}, indent=2, ensure_ascii=False))
    else:
        click.echo(f"broken: {', '.join(broken)}" if broken else "nothing is broken")
    ctx.exit(1 if broken else 0)
