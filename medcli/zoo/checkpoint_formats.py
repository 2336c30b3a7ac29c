"""What other people call the tensors of the networks that we have, and which of ours each one is.

A naming is a pure function: foreign tensors by name in, the configuration and our tensors by name out. Only what the
tensors themselves show is inferred; strictness is the caller's, who compares with a built network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medcli.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]
KAIR_EPSILON = 1e-4  # of its batch normalisation; torch's usual 1e-5 gives other images without any error
MOST_LEVELS = 8


@dataclass(frozen=True)
class ParsedCheckpoint:
    """A foreign checkpoint in our terms. remark: what was done to it beside renaming, in words."""

    config: dict[str, Any]
    tensors: Tensors
    remark: str = ""


@dataclass(frozen=True)
class Naming:
    """A way of naming tensors: `keys` matches every name in full, `sign` is one that is always there."""

    id: str
    architecture: str
    origin: str
    keys: re.Pattern[str]
    sign: str
    read: Callable[[Tensors], ParsedCheckpoint]

    def fits(self, names: Iterable[str]) -> bool:
        """Whether these are the names of such a checkpoint, all of them."""
        listed = list(names)
        return self.sign in listed and all(self.keys.fullmatch(name) for name in listed)


def detect(names: Iterable[str]) -> tuple[Naming, str]:
    """The naming of a checkpoint, and the prefix that its names share beside it (`module.`, `net_g.`).

    Raises ModelError with the known namings where it is none of them.
    """
    listed = list(names)
    for prefix in _shared_prefixes(listed):
        for naming in NAMINGS.values():
            if naming.fits(name[len(prefix) :] for name in listed):
                return naming, prefix
    some = ", ".join(f"'{name}'" for name in listed[:3])
    known = "; ".join(f"{each.id} ({each.architecture}, with '{each.sign}')" for each in NAMINGS.values())
    raise ModelError(
        f"Tensors called {some} belong to no naming that medcli knows.",
        f"Known: {known}. For others name the architecture, its configuration and a map of names.",
    )


def _shared_prefixes(names: list[str]) -> list[str]:
    """Leading parts that all names have in common, each ending in a dot, from none to all."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ["".join(f"{part}." for part in shared[:count]) for count in range(len(shared) + 1)]


def renamed(tensors: Tensors, renames: Mapping[str, str | None]) -> Tensors:
    """Tensors under new names. A rename speaks of a tensor, or of all below a dotted name; None leaves them out.

    The longest match counts. Raises ModelError for a rename that fits nothing and for two tensors of one name.
    """
    result: Tensors = {}
    idle = set(renames)
    for name, tensor in tensors.items():
        old = max((old for old in renames if name == old or name.startswith(f"{old}.")), key=len, default=None)
        idle.discard(old or "")
        start = "" if old is None else renames[old]
        if start is None:
            continue
        new = name if old is None else start + name[len(old) :]
        if new in result:
            raise ModelError(f"Two tensors would be called '{new}', one of them '{name}' in the file.")
        result[new] = tensor
    if idle:
        raise ModelError(f"The map renames '{min(idle)}', and the file holds nothing of that name.")
    return result


def _by_layer(tensors: Tensors, pattern: str) -> dict[str, Tensors]:
    """`pattern` yields (layer, part) of a name: layer -> part -> tensor."""
    layers: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(pattern, name)
        assert found is not None  # the naming was detected by names of this form
        layers.setdefault(found[1], {})[found[2]] = tensor
    return layers


def _kair(tensors: Tensors) -> ParsedCheckpoint:
    """DnCNN as one sequence `model`: convolutions, batch normalisations right behind them, ReLUs between."""
    layers = {int(number): parts for number, parts in _by_layer(tensors, r"model\.(\d+)\.(\w+)").items()}
    convolutions: dict[int, Tensors] = {}
    folded = 0
    for number, parts in sorted(layers.items()):
        if "running_mean" not in parts:
            convolutions[number] = _convolution(f"model.{number}", parts)
        elif number - 1 in convolutions:
            convolutions[number - 1] = _folded(f"model.{number}", convolutions[number - 1], parts)
            folded += 1
        else:
            raise ModelError(f"'model.{number}' is a batch normalisation that follows no convolution.")
    remark = f"{folded} batch normalisations folded into their convolutions" if folded else ""
    return _dncnn(list(convolutions.values()), remark)


def _deepinv(tensors: Tensors) -> ParsedCheckpoint:
    """DnCNN as `in_conv`, `conv_list`, `out_conv`, whose answer is added: the last convolution changes its sign."""
    layers = _by_layer(tensors, r"(in_conv|conv_list\.\d+|out_conv)\.(\w+)")
    inner = sorted((name for name in layers if name.startswith("conv_list.")), key=lambda name: int(name[10:]))
    stack = [_convolution(name, layers[name]) for name in ("in_conv", *inner, "out_conv") if name in layers]
    stack[-1] = {part: -tensor for part, tensor in stack[-1].items()}
    return _dncnn(stack, "sign of the last convolution changed: here the network predicts the noise")


def _dncnn(stack: list[Tensors], remark: str) -> ParsedCheckpoint:
    width, taken = stack[0]["weight"].shape[:2]
    given = stack[-1]["weight"].shape[0]
    if taken != given:
        raise ModelError(
            f"The network takes {taken} channels and gives {given}.",
            "A network that takes a map of the noise (FDnCNN, FFDNet) is not a DnCNN.",
        )
    config = {"channels": given, "width": width, "depth": len(stack), "batch_norm": False}
    named = {f"layers.{2 * place}.{part}": each[part] for place, each in enumerate(stack) for part in each}
    return ParsedCheckpoint(config, named, remark)


def _convolution(name: str, parts: Tensors) -> Tensors:
    """Weight and bias of a 3x3 convolution, the bias zero where there is none."""
    weight = parts.get("weight")
    if weight is None or weight.ndim != 4 or tuple(weight.shape[2:]) != (3, 3) or not weight.numel():
        shape = "absent" if weight is None else tuple(weight.shape)
        raise ModelError(f"'{name}.weight' is {shape}, where a 3x3 convolution was expected.")
    if odd := set(parts) - {"weight", "bias"}:
        raise ModelError(f"'{name}.{min(odd)}' is no parameter of a convolution.")
    return {"weight": weight, "bias": parts.get("bias", weight.new_zeros(weight.shape[0]))}


def _folded(name: str, convolution: Tensors, norm: Tensors) -> Tensors:
    """The convolution that does what it and the batch normalisation behind it did; computed in fp64."""
    width = (convolution["bias"].shape[0],)
    for part in ("weight", "bias", "running_mean", "running_var"):
        if part not in norm or tuple(norm[part].shape) != width:
            raise ModelError(f"'{name}.{part}' is absent or not of {width[0]} numbers.")
    gain = norm["weight"].double() / (norm["running_var"].double() + KAIR_EPSILON).sqrt()
    weight = convolution["weight"].double() * gain[:, None, None, None]
    bias = (convolution["bias"].double() - norm["running_mean"].double()) * gain + norm["bias"].double()
    return {"weight": weight, "bias": bias}


NAFNET = {
    "intro": "head",
    "ending": "tail",
    "middle_blks": "middle",
    "norm1": "mix_norm",
    "conv1": "widen",
    "conv2": "spread",
    "sca.1": "attend",
    "conv3": "narrow",
    "beta": "mix_scale",
    "norm2": "feed_norm",
    "conv4": "feed",
    "conv5": "project",
    "gamma": "feed_scale",
}

RESTORMER = {
    "patch_embed.proj": "head",
    "encoder_level1": "encoders.0",
    "encoder_level2": "encoders.1",
    "encoder_level3": "encoders.2",
    "down1_2.body": "downs.0",
    "down2_3.body": "downs.1",
    "down3_4.body": "downs.2",
    "latent": "middle",
    "up4_3.body": "ups.0",
    "up3_2.body": "ups.1",
    "up2_1.body": "ups.2",
    "reduce_chan_level3": "merges.0",
    "reduce_chan_level2": "merges.1",
    "decoder_level3": "decoders.0",
    "decoder_level2": "decoders.1",
    "decoder_level1": "decoders.2",
    "output": "tail",
    "norm1.body": "attend_norm",
    "attn.temperature": "attend.temperature",
    "attn.qkv": "attend.widen",
    "attn.qkv_dwconv": "attend.spread",
    "attn.project_out": "attend.project",
    "norm2.body": "feed_norm",
    "ffn.project_in": "feed.widen",
    "ffn.dwconv": "feed.spread",
    "ffn.project_out": "feed.project",
}


def _with_names(tensors: Tensors, words: Mapping[str, str]) -> Tensors:
    """Tensors under names in which each of `words`, whole between dots, is replaced."""
    listed = "|".join(re.escape(word) for word in words)
    pattern = re.compile(rf"(?<![^.])(?:{listed})(?![^.])")
    return {pattern.sub(lambda found: words[found[0]], name): tensor for name, tensor in tensors.items()}


def _basicsr(tensors: Tensors) -> ParsedCheckpoint:
    """NAFNet, whose gate halves the channels and whose blocks scale their branches exactly as ours do."""
    ours = _with_names(tensors, NAFNET)
    levels = _levels(_count(ours, "downs."))
    width, channels = _sides(ours, "head.weight")
    config = {
        "channels": channels,
        "width": width,
        "encoders": [_count(ours, f"encoders.{level}.") for level in range(levels)],
        "middle": _count(ours, "middle."),
        "decoders": [_count(ours, f"decoders.{level}.") for level in range(levels)],
    }
    return ParsedCheckpoint(config, ours)


def _restormer(tensors: Tensors) -> ParsedCheckpoint:
    ours = _with_names(tensors, RESTORMER)
    stages = ["encoders.0.", "encoders.1.", "encoders.2.", "middle."]
    width, channels = _sides(ours, "head.weight")
    hidden = [_sides(ours, f"{stage}0.feed.project.weight")[1] for stage in stages]
    config = {
        "channels": channels,
        "width": width,
        "blocks": [_count(ours, stage) for stage in stages],
        "refinement": _count(ours, "refinement."),
        "heads": [_sides(ours, f"{stage}0.attend.temperature")[0] for stage in stages],
        "expansion": _expansion([width * 2**level for level in range(len(stages))], hidden),
    }
    return ParsedCheckpoint(config, ours)


def _count(names: Iterable[str], start: str) -> int:
    """How many numbered parts there are below `start`."""
    return len({name[len(start) :].partition(".")[0] for name in names if name.startswith(start)})


def _levels(count: int) -> int:
    if not 0 < count <= MOST_LEVELS:
        raise ModelError(f"A network of {count} levels is not supported, only of 1 to {MOST_LEVELS}.")
    return count


def _sides(tensors: Tensors, name: str) -> tuple[int, int]:
    """The first two sides of a tensor that must be there."""
    if name not in tensors or tensors[name].ndim < 2 or not tensors[name].numel():
        raise ModelError(f"The file holds no tensor for '{name}', or one without two sides.")
    return int(tensors[name].shape[0]), int(tensors[name].shape[1])


def _expansion(widths: list[int], hidden: list[int]) -> float:
    """The shortest decimal number by which each width, rounded down, becomes its hidden width."""
    least = max(inner / width for inner, width in zip(hidden, widths, strict=True))
    for digits in range(7):
        value: float = math.ceil(round(least * 10**digits, 6)) / 10**digits
        if [int(width * value) for width in widths] == hidden:
            return value
    raise ModelError(f"Hidden widths of {hidden} are no common multiple of {widths}.")


def _pattern(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words))


_NORM = r"running_mean|running_var|num_batches_tracked"
_LISTED = (
    Naming("kair", "dncnn", "KAIR", _pattern(rf"model\.\d+\.(weight|bias|{_NORM})"), "model.0.weight", _kair),
    Naming(
        "deepinv",
        "dncnn",
        "DeepInverse",
        _pattern(r"(in_conv|conv_list\.\d+|out_conv)\.(weight|bias)"),
        "in_conv.weight",
        _deepinv,
    ),
    Naming(
        "basicsr",
        "nafnet",
        "BasicSR",
        _pattern(r"(intro|ending|encoders|decoders|middle_blks|downs|ups)\..+"),
        "intro.weight",
        _basicsr,
    ),
    Naming(
        "restormer",
        "restormer",
        "Restormer",
        _pattern(
            r"(patch_embed|(en|de)coder_level[123]|(down|up)\d_\d|latent|refinement|reduce_chan_level[23]|output)\..+"
        ),
        "patch_embed.proj.weight",
        _restormer,
    ),
)
NAMINGS: Mapping[str, Naming] = {naming.id: naming for naming in _LISTED}
