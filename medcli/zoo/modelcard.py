"""The page that goes with a model: what it is for, what it is not for, what it was made from, how good it is.

One renderer for a model of the catalogue, the result of a training run, and what is published, all of which are a
`Description`; what is not known is left out, but a licence that is not stated is named as such.
The page begins with the YAML that the Hugging Face Hub reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medcli.zoo.catalog import Entry
from medcli.zoo.description import NOISE_DOMAIN, Description
from medcli.zoo.weights import Card

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

NOT_STATED = "not stated"
USAGE = "## How to run it"
TASK = "image-to-image"
METRICS = ("psnr", "ssim", "ms-ssim", "lpips", "fid")
HUB_LICENCES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "gfdl", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1",
    "lgpl-3.0", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "osl-3.0", "pddl",
    "postgresql", "unlicense", "wtfpl", "zlib",
})  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Where a model is and how it was made. model: what follows `--model`, the file's usual name if empty; repo: on the
    Hub, `owner/name`; command: that trained it.
    """

    model: str = ""
    repo: str = ""
    command: str = ""


NOWHERE = Origin()


def portable(arguments: Sequence[str]) -> str:
    """A command line for others to read: of an absolute path, or one from home, only the last part is kept."""
    personal = [Path(each).is_absolute() or each.startswith("~") for each in arguments]
    return shlex.join(Path(each).name if cut else each for each, cut in zip(arguments, personal, strict=True))


def render(about: Description, origin: Origin = NOWHERE) -> str:
    """The page: YAML front matter for the Hub, then Markdown. Ends in a newline; equal arguments give equal text."""
    title = f"# {about.id}" + (f": {about.title}" if about.title else "")
    sections = (
        title,
        _purpose(about),
        _usage(about, origin),
        _limits(about),
        _data(about),
        _training(about, origin.command),
        _scores(about),
        _network(about),
        f"## Citation\n\n```\n{about.citation.strip()}\n```" if about.citation else "",
    )
    return front_matter(about) + "\n" + "\n\n".join(filter(None, sections)) + "\n"


def with_usage(page: str, about: Description, origin: Origin) -> str:
    """The page with its section on how to run the model, if there still is one, replaced by a new one."""
    head, found, rest = page.partition(USAGE)
    _, following, tail = rest.partition("\n## ")
    return head + _usage(about, origin) + ("\n" + following + tail if following else "\n") if found else page


def front_matter(about: Description) -> str:
    """What the Hub reads, between two lines of dashes."""
    from huggingface_hub import ModelCardData

    results = [_result(protocol, score) for protocol, score in about.scores.items()]
    licence, name = hub_licence(about.licence)
    tags = ("image-denoising", "denoising", "image-restoration", about.architecture, about.method, about.domain)
    data = ModelCardData(
        license=licence,
        license_name=name,
        library_name="medcli",
        pipeline_tag=TASK,
        tags=list(dict.fromkeys(_slug(tag) for tag in tags if tag)),
        datasets=[_data_set(name) for name in about.training_data] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=about.id if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def hub_licence(spdx: str) -> tuple[str, str | None]:
    """The Hub's identifier of an SPDX licence; `other` and a name if it has none."""
    name = re.sub("-(only|or-later)$", "", spdx.strip().lower())
    for known in (name, re.sub(r"-1\.0$", "", name)):  # the Hub leaves the version of ODbL, ODC-By and PDDL out
        if known in HUB_LICENCES:
            return known, None
    return "other", _slug(spdx or NOT_STATED)


def _result(protocol: str, score: float) -> EvalResult:
    """A score for the index of models: the data set, how it was used, the metric."""
    from huggingface_hub import EvalResult

    *usage, metric = (part.strip() for part in protocol.split(","))
    name, *details = usage or [protocol]
    return EvalResult(
        task_type=TASK,
        task_name="Image denoising",
        dataset_type=_slug(name),
        dataset_name=name,
        dataset_config=", ".join(details) or None,
        metric_type=_metric(metric),
        metric_name=metric,
        metric_value=score,
    )


def _metric(words: str) -> str:
    """The Hub's name of the metric in a protocol."""
    first = words.lower().split()
    return next((name for name in METRICS if name in first), _slug(words))


def _data_set(name: str) -> str:
    """`owner/name` is one of the Hub and stays; others, which the Hub shows without a link, are simplified."""
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) else _slug(name)


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9.]+", "-", text.lower()).strip("-.")


def _purpose(about: Description) -> str:
    from medcli.zoo.capabilities import capabilities_of  # imports torch

    can = str(capabilities_of(about)) if about.noises else ""
    lines = [
        about.summary,
        f"Noise it was trained for: {about.noise}." if about.noise else "",
        f"It also {can}." if can else "",
    ]
    text = "\n\n".join(filter(None, lines))
    return f"## What it is for\n\n{text}" if text else ""


def use(card: Card, model: str, image: str = "photo.png") -> str:
    """The command that a model is for. model: a name, file or folder."""
    if card.domain == NOISE_DOMAIN:
        return f"med synth-pairs --from clean/ --to noisy/ --model {model}"
    return f"med denoise {image} --model {model}"


def _usage(about: Description, origin: Origin) -> str:
    hub = about.hub if isinstance(about, Entry) else None
    model = origin.model or (about.id if isinstance(about, Entry) else f"{about.id}.safetensors")
    lines = [use(about, model)]
    if origin.repo:
        lines.insert(0, f"hf download {origin.repo} {model} --local-dir .")
    page = USAGE + "\n\n```\n" + "\n".join(lines) + "\n```"
    return f"{page}\n\n`med` fetches the weights once, from {hub.repo}, {hub.file}." if hub else page


def _limits(about: Description) -> str:
    lines = [
        "Not for evidence, diagnosis or measurement: what a denoiser puts in the place of noise is an estimate, and "
        "detail fainter than the noise can vanish or change.",
        "Noise of another kind or strength than trained for stays, or leaves patterns.",
        "It takes gray images only."
        if about.channels == 1
        else f"It takes {about.channels} channels; `med` shows it a gray image as {about.channels} equal ones.",
    ]
    if "-nc" in about.licence.lower():
        lines.append(f"Not for commercial use: the weights are under {about.licence}.")
    if not about.half_safe:
        lines.append("Not for half precision: it gives other images than fp32.")
    return "## What it is not for, and its limits\n\n" + _bullets(lines)


def _data(about: Description) -> str:
    lines = [f"Images: {', '.join(about.training_data) or NOT_STATED}"]
    lines.append(f"Licence of the images: {about.data_licence or NOT_STATED}")
    lines.append(f"Licence of the weights: {about.licence or NOT_STATED}")
    return "## Training data and licences\n\n" + _bullets(lines)


def _training(about: Description, command: str) -> str:
    rows = {"Method": about.method, "Recipe": about.recipe, "Steps": f"{about.steps:,}" if about.steps else ""}
    lines = [f"{name}: {value}" for name, value in rows.items() if value]
    text = "\n\n".join(filter(None, (_bullets(lines), f"```\n{command}\n```" if command else "")))
    return f"## How it was made\n\n{text}" if text else ""


def _scores(about: Description) -> str:
    rows = {protocol: f"{score:g}" for protocol, score in about.scores.items()}
    return "## Scores\n\n" + (_table("| protocol | score |", rows) if rows else "No score was measured.")


def _network(about: Description) -> str:
    pixels = (
        "any"
        if about.multiple == 1
        else f"multiples of {about.multiple} pixels; `med` sees to it, other programs must pad"
    )
    low, high = about.value_range
    rows = {
        "Architecture": about.architecture,
        "Configuration": ", ".join(f"{name} {value}" for name, value in about.config.items()) or "default",
        "Parameters": f"{about.parameters:,}",
        "Multiply-adds per pixel": f"{about.macs_per_pixel:,.0f}",
        "Receptive field": f"{about.receptive_field} pixels to each side",
        "Height and width": pixels,
        "Values": f"(B, {about.channels}, H, W) float in [{low:g}, {high:g}], in and out",
        "Strategy": about.strategy,
    }
    return "## Network\n\n" + "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    )


def _table(head: str, rows: Mapping[str, str]) -> str:
    return "\n".join([head, "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
