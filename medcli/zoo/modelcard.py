"""The page that goes with a model: what it is for, what it is not for, what it was made from, how good it is.

One renderer for three occasions: a model of the catalogue, what a training run leaves, what is published. Each fills
the same `Facts`; what is not known stays empty and is left out, but a licence that nobody stated is named as such.
The page begins with the YAML that the Hugging Face Hub reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medcli.errors import ModelError
from medcli.zoo import weights

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from medcli.zoo.catalog import Entry

NOT_STATED = "not stated"
USAGE = "## How to run it"
TASK = "image-to-image"
METRICS = ("psnr", "ssim", "ms-ssim", "lpips", "fid")
SAMPLE_SIDE = 256  # of the picture over which MACs are counted
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
class Facts:
    """What a page can say of a model.

    model: what follows `--model`. repo: where on the Hub it is, `owner/name`. config: arguments of the architecture.
    noise, noises: what it was trained to remove, in words and in notation.
    channels: of the picture it takes. multiple: of height and width, in pixels; receptive_field: in pixels;
    macs_per_pixel: multiply-adds. licence: SPDX, of the weights; data_licence: of the pictures. recipe: its name;
    command: that trained it. scores: protocol to figure; the protocol ends in the metric, "CBSD68 sigma 25, float,
    PSNR dB".
    """

    id: str
    model: str
    architecture: str
    config: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    summary: str = ""
    noise: str = ""
    noises: Sequence[str] = ()
    domain: str = ""
    channels: int = 3
    value_range: tuple[float, float] = (0, 1)
    multiple: int = 1
    receptive_field: int = 0
    parameters: int = 0
    macs_per_pixel: float = 0
    strategy: str = "plain"
    half_safe: bool = True
    licence: str = ""
    data_licence: str = ""
    training_data: Sequence[str] = ()
    method: str = ""
    recipe: str = ""
    steps: int = 0
    command: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    citation: str = ""
    source: str = ""
    repo: str = ""


class Measures(NamedTuple):
    """What a network costs and what it asks of a picture; units as in `Facts`."""

    parameters: int
    macs_per_pixel: float
    multiple: int
    receptive_field: int


def measure(card: weights.Card) -> Measures:
    """Counts on a network without memory; raises ModelError where the card's network cannot be built or run."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network: Any = weights.build(card).eval()
        side = -(-SAMPLE_SIDE // network.multiple) * network.multiple
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            try:
                network(torch.zeros(1, network.channels, side, side))
            except RuntimeError as error:
                raise ModelError(f"The network of '{card.id}' cannot run: {error}") from error
    parameters = sum(parameter.numel() for parameter in network.parameters())
    macs = counter.get_total_flops() / 2 / side**2
    return Measures(parameters, macs, network.multiple, network.receptive_field)


def of_entry(entry: Entry) -> Facts:
    """The facts of a model of the catalogue."""
    source = entry.source if isinstance(entry.source, str) else f"{entry.source.repo}, {entry.source.file}"
    return Facts(
        id=entry.id,
        model=entry.id,
        architecture=entry.architecture,
        config=entry.config,
        title=entry.title,
        summary=entry.summary,
        noise=entry.noise,
        noises=entry.noises,
        domain=entry.domain,
        channels=entry.channels,
        value_range=entry.value_range,
        multiple=entry.multiple,
        receptive_field=entry.receptive_field,
        parameters=entry.parameters,
        macs_per_pixel=entry.macs_per_pixel,
        strategy=entry.strategy,
        half_safe=entry.half_safe,
        licence=entry.licence,
        data_licence=entry.data_licence,
        training_data=entry.training_data,
        method=entry.method,
        recipe=entry.recipe,
        scores=entry.scores,
        citation=entry.citation,
        source="" if source == "bundled" else source,
    )


def of_card(card: weights.Card, model: str = "") -> Facts:
    """The facts that a weight file tells of itself. model: what follows `--model`, the file's usual name if empty."""
    measures = measure(card)
    return Facts(
        id=card.id,
        model=model or f"{card.id}.safetensors",
        architecture=card.architecture,
        config=card.config,
        title=card.title,
        noise=card.noise,
        noises=card.noises,
        channels=card.channels,
        strategy=card.strategy,
        half_safe=card.half_safe,
        licence=card.licence,
        training_data=card.training_data,
        method=card.method,
        recipe=card.recipe,
        steps=card.steps,
        **measures._asdict(),
    )


def retold(arguments: Sequence[str]) -> str:
    """A command line for others to read: of a path from the root or from home only the last part stays."""
    return shlex.join(_shortened(argument) for argument in arguments)


def _shortened(argument: str) -> str:
    path = Path(argument)
    return path.name if path.is_absolute() or argument.startswith("~") else argument


def render(subject: Facts | Entry) -> str:
    """The page: YAML front matter for the Hub, then Markdown. Ends in a newline; the same facts give the same text."""
    facts = subject if isinstance(subject, Facts) else of_entry(subject)
    title = f"# {facts.id}" + (f": {facts.title}" if facts.title else "")
    sections = [title, *(text for part in SECTIONS if (text := part(facts)))]
    return front_matter(facts) + "\n" + "\n\n".join(sections) + "\n"


def readdressed(page: str, facts: Facts) -> str:
    """The page with its section on how to run the model, if there still is one, replaced by that of `facts`."""
    head, found, rest = page.partition(USAGE)
    _, following, tail = rest.partition("\n## ")
    return head + _usage(facts) + ("\n" + following + tail if following else "\n") if found else page


def front_matter(facts: Facts) -> str:
    """What the Hub reads, between two lines of dashes."""
    from huggingface_hub import ModelCardData

    results = [_result(protocol, score) for protocol, score in facts.scores.items()]
    licence, name = hub_licence(facts.licence)
    data = ModelCardData(
        license=licence,
        license_name=name,
        library_name="medcli",
        pipeline_tag=TASK,
        tags=_tags(facts),
        datasets=[_data_set(name) for name in facts.training_data] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=facts.id if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def hub_licence(spdx: str) -> tuple[str, str | None]:
    """An SPDX licence as the Hub spells it; `other` and a name where the Hub has no word for it."""
    name = re.sub("-(only|or-later)$", "", spdx.strip().lower())
    for known in (name, re.sub(r"-1\.0$", "", name)):  # the Hub leaves the version of ODbL, ODC-By and PDDL out
        if known in HUB_LICENCES:
            return known, None
    return "other", _slug(spdx or NOT_STATED)


def _tags(facts: Facts) -> list[str]:
    wanted = ("image-denoising", "denoising", "image-restoration", facts.architecture, facts.method, facts.domain)
    return list(dict.fromkeys(_slug(tag) for tag in wanted if tag))


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
    """The metric that a protocol names, as the Hub spells it."""
    first = words.lower().split()
    return next((name for name in METRICS if name in first), _slug(words))


def _data_set(name: str) -> str:
    """`owner/name` is one of the Hub and stays; others, which the Hub shows without a link, are simplified."""
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) else _slug(name)


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9.]+", "-", text.lower()).strip("-.")


def _purpose(facts: Facts) -> str:
    lines = [facts.summary, f"Noise it was trained for: {facts.noise}." if facts.noise else "", _abilities(facts)]
    told = "\n\n".join(line for line in lines if line)
    return f"## What it is for\n\n{told}" if told else ""


def use(architecture: str, model: str, picture: str = "photo.png") -> str:
    """The command that a model of this architecture is for. model: a name, file or folder."""
    if architecture == "ludvae":
        return f"med synth-pairs --from clean/ --to noisy/ --model {model}"
    return f"med denoise {picture} --model {model}"


def _abilities(facts: Facts) -> str:
    if not facts.noises:
        return ""
    from medcli.zoo.abilities import abilities  # imports torch

    words = str(abilities(facts.noises))
    return f"It also {words}." if words else ""


def _usage(facts: Facts) -> str:
    lines = [use(facts.architecture, facts.model)]
    if facts.repo:
        lines.insert(0, f"hf download {facts.repo} {facts.model} --local-dir .")
    page = USAGE + "\n\n```\n" + "\n".join(lines) + "\n```"
    return f"{page}\n\n`med` fetches the weights once, from {facts.source}." if facts.source else page


def _limits(facts: Facts) -> str:
    lines = [
        "Not for evidence, diagnosis or measurement: what a denoiser puts in the place of noise is a guess, and detail "
        "fainter than the noise can vanish or change.",
        "Noise of another kind or strength than trained for stays, or leaves patterns.",
        _channels(facts.channels),
    ]
    if "-nc" in facts.licence.lower():
        lines.append(f"Not for commercial use: the weights are under {facts.licence}.")
    if not facts.half_safe:
        lines.append("Not for half precision: it gives other pictures than fp32.")
    return "## What it is not for, and its limits\n\n" + _bullets(lines)


def _channels(channels: int) -> str:
    if channels == 1:
        return "It takes gray pictures only."
    return f"It takes {channels} channels; `med` shows it a gray picture as {channels} equal ones."


def _origin(facts: Facts) -> str:
    lines = [f"Pictures: {', '.join(facts.training_data) or NOT_STATED}"]
    lines.append(f"Licence of the pictures: {facts.data_licence or NOT_STATED}")
    lines.append(f"Licence of the weights: {facts.licence or NOT_STATED}")
    return "## Training data and licences\n\n" + _bullets(lines)


def _recipe(facts: Facts) -> str:
    rows = {"Method": facts.method, "Recipe": facts.recipe, "Steps": f"{facts.steps:,}" if facts.steps else ""}
    lines = [f"{name}: {value}" for name, value in rows.items() if value]
    command = f"```\n{facts.command}\n```" if facts.command else ""
    told = "\n\n".join(text for text in (_bullets(lines), command) if text)
    return f"## How it was made\n\n{told}" if told else ""


def _scores(facts: Facts) -> str:
    rows = {protocol: f"{score:g}" for protocol, score in facts.scores.items()}
    return "## Scores\n\n" + (_table("| protocol | score |", rows) if rows else "No score was measured.")


def _network(facts: Facts) -> str:
    pixels = (
        "any"
        if facts.multiple == 1
        else f"multiples of {facts.multiple} pixels; `med` sees to it, other programs must pad"
    )
    low, high = facts.value_range
    rows = {
        "Architecture": facts.architecture,
        "Configuration": ", ".join(f"{name} {value}" for name, value in facts.config.items()) or "as it comes",
        "Parameters": f"{facts.parameters:,}",
        "Multiply-adds per pixel": f"{facts.macs_per_pixel:,.0f}",
        "Receptive field": f"{facts.receptive_field} pixels to each side",
        "Height and width": pixels,
        "Values": f"(B, {facts.channels}, H, W) float in [{low:g}, {high:g}], in and out",
        "Strategy": facts.strategy,
    }
    return "## Network\n\n" + "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    )


def _citation(facts: Facts) -> str:
    return f"## Citation\n\n```\n{facts.citation.strip()}\n```" if facts.citation else ""


def _table(head: str, rows: Mapping[str, str]) -> str:
    return "\n".join([head, "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


SECTIONS: Sequence[Callable[[Facts], str]] = (
    _purpose,
    _usage,
    _limits,
    _origin,
    _recipe,
    _scores,
    _network,
    _citation,
)
