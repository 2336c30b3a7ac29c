"""Claims about foreign checkpoints: what they become, and that a hostile one becomes an error."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor, nn

from medcli.archs.nafnet import NAFNet
from medcli.archs.restormer import Restormer
from medcli.cli import med
from medcli.cli.models.convert import command
from medcli.errors import MedcliError, ModelError
from medcli.zoo.checkpoint_formats import detect, renamed
from medcli.zoo.convert import Found, ImportOptions, converted, import_file
from medcli.zoo.unpickle import tensors_in, unpickled, unwrapped
from medcli.zoo.weights import Card, load_network, save

SHARED = Path(__file__).parents[1].parent / "shared"
OFFICIAL = {
    "sidd": (0.498961, 0.100769, 0.032638, [0.529033, 0.510927, 0.500376]),
    "dnd": (0.502722, 0.117486, 0.012199, [0.519818, 0.519771, 0.504473]),
}
State = dict[str, Tensor]


def scattered(network: nn.Module) -> State:
    """The network's tensors, random: none at the zero or one where it may start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    return dict(network.state_dict())


def kair(depth: int = 5, width: int = 6, channels: int = 3, *, norm: bool = True, bias: bool = True) -> nn.Module:
    """A DnCNN's stack as KAIR builds it; the network's answer is the input less that of the stack."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=bias), nn.ReLU()]
    for _ in range(depth - 2):
        layers.append(nn.Conv2d(width, width, 3, padding=1, bias=bias))
        if norm:
            layers.append(nn.BatchNorm2d(width, eps=1e-4))
            nn.init.uniform_(layers[-1].running_mean, -0.2, 0.2)
            nn.init.uniform_(layers[-1].running_var, 1e-6, 1e-3)
        layers.append(nn.ReLU())
    layers.append(nn.Conv2d(width, channels, 3, padding=1, bias=bias))
    return nn.ModuleDict({"model": nn.Sequential(*layers)}).eval()


def imported(tensors: Mapping[str, Tensor], folder: Path, **given: Any) -> tuple[nn.Module, Found]:
    """The network that `med denoise` would run of tensors in a safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "foreign.safetensors")
    found = import_file(folder / "foreign.safetensors", folder / "ours.safetensors", ImportOptions("ours", **given))
    network, card = load_network(folder / "ours.safetensors")
    assert card == found.card
    return network, found


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


class TestDnCNN:
    @pytest.mark.parametrize(
        ("norm", "bias", "channels"), [(True, True, 3), (False, True, 3), (True, False, 1), (False, False, 1)]
    )
    def test_kair_stack_gives_the_same_images(self, norm: bool, bias: bool, channels: int, tmp_path: Path) -> None:
        theirs = kair(channels=channels, norm=norm, bias=bias)
        network, found = imported(theirs.state_dict(), tmp_path)
        noisy = torch.rand(2, channels, 17, 22)
        with torch.no_grad():
            wanted = noisy - theirs["model"](noisy)
            assert (network(noisy) - wanted).abs().max() < 1e-5 * wanted.abs().max()
        assert found.card.config == {"channels": channels, "width": 6, "depth": 5, "batch_norm": False}
        assert (found.naming, found.card.channels, found.card.half_safe) == ("kair", channels, False)
        assert bool(found.remark) == norm

    def test_deepinv_adds_what_we_take_away(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        sides = [(3, 6), (6, 6), (6, 6), (6, 3)]
        first, *inner, last = (nn.Conv2d(taken, given, 3, padding=1) for taken, given in sides)
        parts = nn.ModuleDict({"in_conv": first, "conv_list": nn.ModuleList(inner), "out_conv": last})
        network, _ = imported(parts.state_dict(), tmp_path)
        noisy = torch.rand(1, 3, 9, 9)
        features = first(noisy).relu()
        for layer in inner:
            features = layer(features).relu()
        with torch.no_grad():
            assert torch.allclose(network(noisy), last(features) + noisy, atol=1e-6)

    def test_prefixes_of_wrapping_modules_do_not_matter(self, tmp_path: Path) -> None:
        state = {f"module.netG.{name}": tensor for name, tensor in kair().state_dict().items()}
        _, found = imported(state, tmp_path)
        assert (found.naming, found.prefix) == ("kair", "module.netG.")

    def test_a_network_with_a_noise_map_is_no_dncnn(self, tmp_path: Path) -> None:
        state = kair(norm=False).state_dict()
        state["model.0.weight"] = torch.rand(6, 4, 3, 3)
        with pytest.raises(ModelError, match="takes 4 channels and gives 3"):
            imported(state, tmp_path)

    @pytest.mark.parametrize("change", ["lost", "odd", "kernel", "adrift", "nan"])
    def test_what_does_not_fit_is_named(self, change: str, tmp_path: Path) -> None:
        state = kair().state_dict()
        if change == "lost":
            del state["model.3.running_var"]
        elif change == "odd":
            state["model.2.running_var"] = torch.rand(6)
        elif change == "kernel":
            state["model.2.weight"] = torch.rand(6, 6, 1, 1)
        elif change == "adrift":
            state = {name.replace("model.3.", "model.4."): tensor for name, tensor in state.items()}
        else:
            state["model.2.weight"][0, 0, 0, 0] = torch.nan
        with pytest.raises(ModelError, match=r"model\.[234]"):
            imported(state, tmp_path)


def plain_nafnet(state: State, noisy: Tensor) -> Tensor:
    """NAFNet on BasicSR's names, from the paper's figures: two levels of one block, one at the bottom."""

    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    def block(name: str, x: Tensor) -> Tensor:
        y = conv(f"{name}.conv1", norm(f"{name}.norm1", x))
        y = conv(f"{name}.conv2", y, padding=1, groups=y.shape[1])
        width = y.shape[1] // 2
        y = y[:, :width] * y[:, width:]
        y = y * conv(f"{name}.sca.1", y.mean((2, 3), keepdim=True))
        x = x + conv(f"{name}.conv3", y) * state[f"{name}.beta"]
        y = conv(f"{name}.conv4", norm(f"{name}.norm2", x))
        return x + conv(f"{name}.conv5", y[:, :width] * y[:, width:]) * state[f"{name}.gamma"]

    fine = block("encoders.0.0", conv("intro", noisy, padding=1))
    coarse = block("encoders.1.0", conv("downs.0", fine, stride=2))
    x = block("middle_blks.0", conv("downs.1", coarse, stride=2))
    x = block("decoders.0.0", F.pixel_shuffle(conv("ups.0.0", x), 2) + coarse)
    x = block("decoders.1.0", F.pixel_shuffle(conv("ups.1.0", x), 2) + fine)
    return conv("ending", x, padding=1) + noisy


def plain_restormer(state: State, noisy: Tensor) -> Tensor:
    """Restormer on its published names, from the paper's figure 2: four levels of one block."""

    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], **options)

    def depthwise(name: str, x: Tensor) -> Tensor:
        return conv(name, x, padding=1, groups=x.shape[1])

    def norm(name: str, x: Tensor) -> Tensor:
        return x / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt() * state[f"{name}.body.weight"][:, None, None]

    def attend(name: str, x: Tensor) -> Tensor:
        batch, width, height, columns = x.shape
        heads = len(state[f"{name}.temperature"])
        mixed = depthwise(f"{name}.qkv_dwconv", conv(f"{name}.qkv", x))
        q, k, v = mixed.reshape(batch, 3, heads, width // heads, -1).unbind(1)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * state[f"{name}.temperature"]
        return conv(f"{name}.project_out", (weights.softmax(-1) @ v).reshape(batch, width, height, columns))

    def feed(name: str, x: Tensor) -> Tensor:
        gate, passed = depthwise(f"{name}.dwconv", conv(f"{name}.project_in", x)).chunk(2, 1)
        return conv(f"{name}.project_out", F.gelu(gate) * passed)

    def block(name: str, x: Tensor) -> Tensor:
        x = x + attend(f"{name}.0.attn", norm(f"{name}.0.norm1", x))
        return x + feed(f"{name}.0.ffn", norm(f"{name}.0.norm2", x))

    def down(name: str, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(conv(f"{name}.body.0", x, padding=1), 2)

    def up(name: str, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((F.pixel_shuffle(conv(f"{name}.body.0", x, padding=1), 2), skip), 1)

    first = block("encoder_level1", conv("patch_embed.proj", noisy, padding=1))
    second = block("encoder_level2", down("down1_2", first))
    third = block("encoder_level3", down("down2_3", second))
    x = block("latent", down("down3_4", third))
    x = block("decoder_level3", conv("reduce_chan_level3", up("up4_3", x, third)))
    x = block("decoder_level2", conv("reduce_chan_level2", up("up3_2", x, second)))
    x = block("refinement", block("decoder_level1", up("up2_1", x, first)))
    return conv("output", x, padding=1) + noisy


BASICSR = (
    ("head", "intro"), ("tail", "ending"), ("middle", "middle_blks"),
    ("mix_norm", "norm1"), ("widen", "conv1"), ("spread", "conv2"), ("attend", "sca.1"), ("narrow", "conv3"),
    ("feed_norm", "norm2"), ("feed", "conv4"), ("project", "conv5"), ("mix_scale", "beta"), ("feed_scale", "gamma"),
)  # fmt: skip

PUBLISHED = (
    ("head", "patch_embed.proj"), ("encoders.0", "encoder_level1"), ("encoders.1", "encoder_level2"),
    ("encoders.2", "encoder_level3"), ("downs.0.0", "down1_2.body.0"), ("downs.1.0", "down2_3.body.0"),
    ("downs.2.0", "down3_4.body.0"), ("middle", "latent"), ("ups.0.0", "up4_3.body.0"), ("ups.1.0", "up3_2.body.0"),
    ("ups.2.0", "up2_1.body.0"), ("merges.0", "reduce_chan_level3"), ("merges.1", "reduce_chan_level2"),
    ("decoders.0", "decoder_level3"), ("decoders.1", "decoder_level2"), ("decoders.2", "decoder_level1"),
    ("tail", "output"), ("attend_norm", "norm1.body"), ("feed_norm", "norm2.body"), ("attend.widen", "attn.qkv"),
    ("attend.spread", "attn.qkv_dwconv"), ("attend.project", "attn.project_out"),
    ("attend.temperature", "attn.temperature"), ("feed.widen", "ffn.project_in"), ("feed.spread", "ffn.dwconv"),
    ("feed.project", "ffn.project_out"),
)  # fmt: skip


def foreign(network: nn.Module, words: tuple[tuple[str, str], ...]) -> State:
    """The network's random tensors under the names of another author."""

    def fingerprint(name: str) -> str:
        name = f".{name}."
        for ours, theirs in words:
            name = name.replace(f".{ours}.", f".{theirs}.")
        return name.strip(".")

    return {fingerprint(name): tensor for name, tensor in scattered(network).items()}


TINY_NAFNET = {"width": 4, "encoders": [1, 1], "middle": 1, "decoders": [1, 1]}


class TestNAFNet:
    def test_basicsr_names_give_the_papers_network(self, tmp_path: Path) -> None:
        state = foreign(NAFNet(**TINY_NAFNET), BASICSR)
        network, found = imported(state, tmp_path)
        noisy = torch.rand(2, 3, 12, 20)
        with torch.no_grad():
            wanted = plain_nafnet(state, noisy)
            assert (wanted - noisy).abs().max() > 0.1
            assert (network(noisy) - wanted).abs().max() < 1e-5 * wanted.abs().max()
        assert found.card.config == {"channels": 3, **TINY_NAFNET}

    def test_stages_of_different_depth_and_empty_ones_are_seen(self, tmp_path: Path) -> None:
        config = {"channels": 1, "width": 2, "encoders": [1, 0, 3], "middle": 2, "decoders": [2, 1, 0]}
        _, found = imported(foreign(NAFNet(**config), BASICSR), tmp_path)
        assert found.card.config == config

    @pytest.mark.parametrize(
        ("change", "message_lines"),
        [
            (("middle_blks.0.conv1.weight", None), "lacks 'middle.0.widen.weight'"),
            (("middle_blks.0.se.1.weight", torch.rand(3)), "nothing there is called 'middle.0.se.1.weight'"),
            (("middle_blks.0.conv1.weight", torch.rand(3, 16, 1, 1)), r"is \(3, 16, 1, 1\) in the file"),
        ],
    )
    def test_nothing_is_left_over_or_unfilled(
        self, change: tuple[str, Tensor | None], message_lines: str, tmp_path: Path
    ) -> None:
        state = foreign(NAFNet(**TINY_NAFNET), BASICSR)
        name, tensor = change
        state.pop(name, None)
        with pytest.raises(ModelError, match=message_lines):
            imported(state if tensor is None else {**state, name: tensor}, tmp_path)


class TestRestormer:
    @pytest.mark.parametrize(("heads", "expansion"), [([1, 2, 4, 8], 2.66), ([1, 1, 2, 2], 2.0)])
    def test_published_names_give_the_papers_network(self, heads: list[int], expansion: float, tmp_path: Path) -> None:
        ours = Restormer(width=8, blocks=[1, 1, 1, 1], refinement=1, heads=heads, expansion=expansion)
        state = foreign(ours, PUBLISHED)
        network, found = imported(state, tmp_path)
        noisy = torch.rand(2, 3, 16, 24)
        with torch.no_grad():
            wanted = plain_restormer(state, noisy)
            assert (wanted - noisy).abs().max() > 0.1
            assert (network(noisy) - wanted).abs().max() < 1e-4 * wanted.abs().max()
        config = found.card.config
        assert (config["width"], config["blocks"], config["heads"]) == (8, [1, 1, 1, 1], heads)
        assert [int(width * config["expansion"]) for width in (8, 16, 32, 64)] == [
            int(width * expansion) for width in (8, 16, 32, 64)
        ]

    def test_the_published_expansion_is_read_off_its_widths(self, tmp_path: Path) -> None:
        ours = Restormer(width=48, blocks=[1, 1, 1, 1], refinement=1)
        shapes = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in foreign(ours, PUBLISHED).items()}
        naming, _ = detect(shapes)
        assert naming.read(shapes).config == ours.config

    def test_layer_norms_with_a_bias_are_not_ours(self, tmp_path: Path) -> None:
        state = foreign(Restormer(width=8, blocks=[1, 1, 1, 1], refinement=1), PUBLISHED)
        state["latent.0.norm1.body.bias"] = torch.zeros(64)
        with pytest.raises(ModelError, match=r"middle\.0\.attend_norm\.bias"):
            imported(state, tmp_path)


class TestOtherNames:
    def state(self) -> State:
        return {f"net.{name}": tensor for name, tensor in kair(norm=False).state_dict().items()} | {
            "step": torch.ones(1)
        }

    def test_a_map_brings_any_file_home(self, tmp_path: Path) -> None:
        config = {"width": 6, "depth": 5, "batch_norm": False}
        network, found = imported(
            self.state(), tmp_path, architecture="dncnn", config=config, renames={"net.model": "layers", "step": None}
        )
        assert (found.naming, found.tensors) == ("", 11)
        assert torch.equal(network.state_dict()["layers.2.weight"], kair(norm=False).state_dict()["model.2.weight"])

    def test_our_own_names_need_no_map(self, tmp_path: Path) -> None:
        network = NAFNet(**TINY_NAFNET)
        again, found = imported(scattered(network), tmp_path, architecture="nafnet", config=TINY_NAFNET)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())
        assert found.naming == ""

    def test_the_longest_rename_counts(self) -> None:
        one = torch.ones(1)
        result = renamed({"a.b.c": one, "a.d": one, "ab": one}, {"a": "x", "a.b": "y"})
        assert list(result) == ["y.c", "x.d", "ab"]

    @pytest.mark.parametrize(
        ("renames", "message_lines"), [({"nothing": "x"}, "'nothing'"), ({"a": "b"}, "Two tensors would be called 'b'")]
    )
    def test_a_map_that_does_not_fit_is_an_error(self, renames: dict[str, str | None], message_lines: str) -> None:
        with pytest.raises(ModelError, match=message_lines):
            renamed({"b": torch.ones(1), "a": torch.ones(1)}, renames)

    @pytest.mark.parametrize(
        ("given", "message_lines"),
        [
            ({}, "no naming that medcli knows"),
            ({"renames": {"net": "layers"}}, "needs the architecture"),
            ({"architecture": "dncn"}, "no architecture called 'dncn'"),
            ({"architecture": "unet"}, "lacks"),
        ],
    )
    def test_unknown_names_are_an_error(self, given: dict[str, Any], message_lines: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=message_lines) as caught:
            imported(self.state(), tmp_path, **given)
        assert caught.value.hint

    def test_an_architecture_that_the_names_deny_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="holds a dncnn in the naming of KAIR, not a nafnet"):
            imported(kair().state_dict(), tmp_path, architecture="nafnet")


class TestConverted:
    CARD = Card(id="tiny", architecture="dncnn", config={"width": 6, "depth": 5, "batch_norm": False}, licence="MIT")

    @pytest.fixture
    def raw(self, tmp_path: Path) -> Path:
        save_file(kair().state_dict(), tmp_path / "raw.safetensors")
        return tmp_path / "raw.safetensors"

    def test_is_made_once_and_again_when_the_card_changes(self, raw: Path, tmp_path: Path) -> None:
        folder = tmp_path / "deep" / "er"
        place = converted(raw, self.CARD, "kair", folder)
        network, card = load_network(place)
        assert (card, network.config["depth"]) == (self.CARD, 5)
        made = place.stat().st_mtime_ns
        assert converted(raw, self.CARD, "kair", folder) == place
        assert place.stat().st_mtime_ns == made
        other = Card(**{**vars(self.CARD), "noise": "strong"})
        assert converted(raw, other, "kair", folder) != place
        assert len(list(folder.glob("*.safetensors"))) == 2

    @pytest.mark.parametrize("harm", ["flip", "cut", "note"])
    def test_a_conversion_that_changed_is_made_anew(self, harm: str, raw: Path, tmp_path: Path) -> None:
        place = converted(raw, self.CARD, "kair", tmp_path / "store")
        data = place.read_bytes()
        if harm == "note":
            place.with_suffix(".sha256").unlink()
        else:
            place.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if harm == "flip" else b""))
        assert converted(raw, self.CARD, "kair", tmp_path / "store").read_bytes() == data

    def test_a_store_that_cannot_be_written_is_an_error(self, raw: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ModelError, match=r"cannot be converted(.|\n)*MED_HOME"):
            converted(raw, self.CARD, "kair", tmp_path / "file" / "store")

    @pytest.mark.parametrize(
        ("naming", "config", "message_lines"),
        [
            ("basicsr", {}, "naming of KAIR, not of BasicSR"),
            ("kairr", {}, "unknown naming 'kairr'"),
            ("kair", {"depth": 6}, "lacks 'layers.10.weight'"),
        ],
    )
    def test_a_catalogue_that_is_wrong_leaves_nothing(
        self, naming: str, config: dict[str, int], message_lines: str, raw: Path, tmp_path: Path
    ) -> None:
        card = Card(id="tiny", architecture="dncnn", config={**self.CARD.config, **config})
        with pytest.raises(ModelError, match=message_lines):
            converted(raw, card, naming, tmp_path / "store")
        assert list((tmp_path / "store").glob("*")) == []


class Gadget:
    """Runs a command when it is unpickled by a loader that lets it."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.line,)


class Evaluated(Gadget):
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1 + 1",)


def saved(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def itself() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["model"] = state
    return state


def deflated() -> bytes:
    source, buffer = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(1000)}))), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    return buffer.getvalue()


def overlapping() -> bytes:
    """An archive whose members are many times the same bytes."""
    buffer = io.BytesIO(saved({"a": torch.zeros(1000)}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.filelist.extend(archive.filelist[:] * 200)
        archive._didModify = True
    return buffer.getvalue()


SYSTEM = f"{os.system.__module__}.system"
HOSTILE = {
    "command": (saved({"a": Gadget("exit")}), SYSTEM),
    "command, older format": (saved(Gadget("exit"), legacy=True), SYSTEM),
    "command, bare pickle": (pickle.dumps(Gadget("exit"), 4), "cannot be read as weights"),
    "eval, protocol 0": (pickle.dumps(Evaluated(""), 0), "asks Python for [a-z_.]*eval,"),
    "a class": (saved(argparse.Namespace(lr=1)), r"argparse\.Namespace"),
    "a network": (saved(nn.Conv2d(1, 1, 1)), r"torch\.nn\.modules\.conv\.Conv2d"),
    "numpy": (saved({"a": np.zeros(3)}), r"numpy\._?core\.multiarray"),
    "far more than the file": (saved({"a": torch.zeros(1).expand(2**20, 2**20)}), "claims 4398046511104 bytes"),
    "compressed": (deflated(), "compressed archive"),
    "members over one another": (overlapping(), "claims to unpack"),
    "a list": (saved([torch.zeros(1)]), "holds a list"),
    "a tensor": (saved(torch.zeros(1)), "holds a Tensor"),
    "nothing": (saved({}), "holds a dict, not tensors"),
    "a number": (saved({"a": 1.5}), "'a' is a float"),
    "no name": (saved({3: torch.zeros(1)}), "called 3"),
    "an unprintable name": (saved({"a\x1b[2J": torch.zeros(1)}), r"called 'a\\x1b"),
    "sparse": (saved({"a": torch.eye(2).to_sparse()}), "unusual kind"),
    "complex": (saved({"a": torch.zeros(2, dtype=torch.complex64)}), "unusual kind"),
    "itself": (saved(itself()), "'model' is a dict"),
    "text": (b"<!DOCTYPE html><html>404</html>", "cannot be read as weights"),
    "no bytes": (b"", "cannot be read as weights"),
    "half": (saved({"a": torch.zeros(100)})[:700], "damaged"),
}


class TestOddTensors:
    """What safetensors may hold and weights may not."""

    @pytest.mark.parametrize(
        "kind", [torch.float8_e4m3fn, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64]
    )
    @pytest.mark.parametrize("way", ["naming", "own names", "map"])
    def test_types_that_are_no_weights(self, kind: torch.dtype, way: str, tmp_path: Path) -> None:
        state = {name: tensor.to(kind) for name, tensor in kair(norm=False).state_dict().items()}
        given: dict[str, Any] = {}
        if way != "naming":
            state = {name.replace("model.", "layers."): tensor for name, tensor in state.items()}
            given = {"architecture": "dncnn", "renames": {"layers": "layers"} if way == "map" else {}}
        with pytest.raises(ModelError, match="is of type"):
            imported(state, tmp_path, **given)

    def test_a_header_whose_notes_are_null(self, tmp_path: Path) -> None:
        save_file(kair().state_dict(), tmp_path / "a.safetensors")
        data = (tmp_path / "a.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.dumps({"__metadata__": None, **json.loads(data[8 : 8 + length])}).encode()
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
        assert import_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors", ImportOptions("b")).naming == "kair"

    def test_names_that_would_write_over_the_screen(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"called 'a\\x1b"):
            imported({"a\x1b[2J": torch.zeros(1)}, tmp_path)

    def test_a_configuration_beyond_the_file_is_refused_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="far larger"):
            imported(kair(norm=False).state_dict(), tmp_path, config={"depth": 3_000_000})

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.pth")
        with pytest.raises(ModelError, match="no file"):
            import_file(tmp_path / "x.pth", tmp_path / "b.safetensors", ImportOptions("b"))


class TestHostileFiles:
    @pytest.mark.parametrize("kind", HOSTILE)
    @pytest.mark.filterwarnings("ignore")
    def test_are_errors(self, kind: str, tmp_path: Path) -> None:
        data, message_lines = HOSTILE[kind]
        (tmp_path / "x.pth").write_bytes(data)
        with pytest.raises(ModelError, match=message_lines):
            tensors_in(tmp_path / "x.pth")

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.filterwarnings("ignore")
    def test_a_damaged_file_is_an_error_or_tensors(self, legacy: bool, tmp_path: Path) -> None:
        whole = saved({"a": torch.zeros(8, 3), "b.c": torch.ones(5)}, legacy=legacy)
        draws, path, errors = random.Random(0), tmp_path / "x.pth", 0
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(draws.choice([1, 3, 10])):
                data[draws.randrange(len(data))] = draws.randrange(256)
            path.write_bytes(data[: draws.choice([len(data), len(data), draws.randrange(len(data))])])
            try:
                assert all(isinstance(each, Tensor) for each in tensors_in(path).values())
            except ModelError:
                errors += 1
        assert errors > 30

    def test_nothing_runs_even_where_the_environment_allows_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        (tmp_path / "evil.pth").write_bytes(saved({"a": Gadget(f"echo ran > {tmp_path / 'mark'}")}))
        result = run(tmp_path / "evil.pth", "-o", tmp_path / "out.safetensors")
        assert isinstance(result.exception, ModelError)
        assert f"asks Python for {SYSTEM}" in result.exception.problem
        assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]

    def test_memory_is_bounded_in_the_child(self, tmp_path: Path) -> None:
        pytest.importorskip("resource", reason="no limit on memory on this system")
        whole = saved({"a": torch.zeros(12345)}, legacy=True)
        claim = whole.replace(b"M" + (12345).to_bytes(2, "little"), b"\x8a\x05" + (2**32).to_bytes(5, "little"))
        (tmp_path / "x.pth").write_bytes(claim)
        with pytest.raises(ModelError, match="allocate"):
            unpickled(tmp_path / "x.pth", tmp_path)

    def test_time_is_bounded(self, tmp_path: Path) -> None:
        (tmp_path / "x.pth").write_bytes(saved({"a": torch.zeros(1)}))
        with pytest.raises(ModelError, match=r"within 0\.01 s"):
            unpickled(tmp_path / "x.pth", tmp_path, seconds=0.01)

    def test_modules_beside_the_file_are_not_imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder of downloads may hold a `torch.py`; and wrappers are opened, averaged weights first."""
        (tmp_path / "torch.py").write_text("raise SystemExit('imported')")
        monkeypatch.chdir(tmp_path)
        state = {"epoch": 3, "params": {"a": torch.zeros(2)}, "params_ema": {"a": torch.full((2,), 7.0)}}
        Path("x.pth").write_bytes(saved({"state_dict": state}))
        Path("scratch").mkdir()
        from safetensors.torch import load_file

        assert load_file(unpickled(Path("x.pth"), Path("scratch")))["a"].tolist() == [7, 7]

    def test_wrappers_are_opened_and_tensors_called_model_are_not(self) -> None:
        state = {"model.0.weight": torch.zeros(1)}
        assert unwrapped(state) is state
        assert unwrapped({"model": {"params": state}, "iter": 1}) is state
        assert unwrapped({"model": torch.zeros(1)}).keys() == {"model"}


class TestCommand:
    def test_a_safetensors_file_denoises_at_once(self, tmp_path: Path) -> None:
        save_file(kair().state_dict(), tmp_path / "foreign.safetensors")
        out, image = tmp_path / "out.safetensors", tmp_path / "a.png"
        result = run(tmp_path / "foreign.safetensors", "-o", out, "--licence", "MIT", "--id", "mine")
        assert result.exit_code == 0
        assert "dncnn, 25 tensors in the naming of KAIR" in result.output
        assert "3 batch normalisations folded" in result.output
        assert "licence" not in result.output
        assert load_network(out)[1].id == "mine"
        cv2.imwrite(str(image), np.full((20, 30, 3), 90, np.uint8))
        done = CliRunner().invoke(med, ["denoise", str(image), "-m", str(out), "--device", "cpu", "-q"])
        assert done.exit_code == 0
        assert (tmp_path / "a.denoised.png").exists()

    def test_config_and_map_come_from_files_or_the_line(self, tmp_path: Path) -> None:
        save_file(TestOtherNames().state(), tmp_path / "foreign.safetensors")
        (tmp_path / "map.yaml").write_text("net.model: layers\nstep: null\n")
        (tmp_path / "net.json").write_text('{"width": 6, "depth": 5, "batch_norm": false}')
        for config in (tmp_path / "net.json", "{width: 6, depth: 5, batch_norm: false}"):
            out = tmp_path / "out.safetensors"
            options = ["--arch", "dncnn", "--map", tmp_path / "map.yaml", "--config", config, "-f"]
            result = run(tmp_path / "foreign.safetensors", "-o", out, *options)
            assert result.exception is None
            assert "licence unknown" in result.output

    def test_a_folder_for_the_result_is_made(self, tmp_path: Path) -> None:
        save_file(kair().state_dict(), tmp_path / "foreign.safetensors")
        assert run(tmp_path / "foreign.safetensors", "-o", tmp_path / "new" / "out.safetensors").exception is None
        assert (tmp_path / "new" / "out.safetensors").is_file()

    def test_does_not_overwrite_by_default(self, tmp_path: Path) -> None:
        save_file(kair().state_dict(), tmp_path / "foreign.safetensors")
        (tmp_path / "out.safetensors").write_text("mine")
        result = run(tmp_path / "foreign.safetensors", "-o", tmp_path / "out.safetensors")
        assert isinstance(result.exception, MedcliError)
        assert (tmp_path / "out.safetensors").read_text() == "mine"

    @pytest.mark.parametrize(
        ("options", "message_lines"),
        [
            (["-o", "x.pth"], "must end in .safetensors"),
            (["-o", "x.safetensors", "--config", "[1]"], "lines of 'name: value'"),
            (["-o", "x.safetensors", "--config", "{"], "not YAML"),
            (["-o", "x.safetensors", "--config", "day: 2024-99-99"], "not YAML"),
            (["-o", "x.safetensors", "--config", "[" * 3000], "not YAML"),
            (["-o", "x.safetensors", "--config", str(Path(cv2.__file__).parent / "cv2.abi3.so")], "cannot be read"),
            (["-o", "x.safetensors", "--map", "nowhere.yaml"], "nowhere.yaml"),
        ],
    )
    def test_options_that_make_no_sense_are_usage_errors(self, options: list[str], message_lines: str) -> None:
        result = run("file.pth", *options)
        assert (result.exit_code, message_lines in result.output) == (2, True)

    def test_files_that_are_no_checkpoints_are_errors(self, tmp_path: Path) -> None:
        network = NAFNet(**TINY_NAFNET)
        save(tmp_path / "ours.safetensors", network, Card("ours", "nafnet", network.config))
        (tmp_path / "short.safetensors").write_bytes((tmp_path / "ours.safetensors").read_bytes()[:-1])
        for name, message_lines in (("ours", "already"), ("short", "corrupt"), ("absent", "no file")):
            result = run(tmp_path / f"{name}.safetensors", "-o", tmp_path / "out.safetensors")
            assert isinstance(result.exception, ModelError)
            assert message_lines in result.exception.problem


@pytest.fixture(scope="module", params=OFFICIAL)
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, nn.Module]:
    """An official checkpoint after import: its name and our network."""
    source = SHARED / "checkpoints" / f"ludvae-dncnn-{request.param}.pth"
    if not source.exists():
        pytest.skip("the official checkpoints are not beside this checkout")
    target = tmp_path_factory.mktemp("official") / "out.safetensors"
    result = run(source, "-o", target, "--licence", "MIT")
    assert "dncnn, 109 tensors in the naming of KAIR" in result.output
    return request.param, load_network(target)[0]


class TestOfficialCheckpoints:
    def test_the_golden_values(self, official: tuple[str, nn.Module]) -> None:
        name, network = official
        mean, std, change, middle = OFFICIAL[name]
        rows, columns = torch.arange(48.0)[:, None], torch.arange(48.0)
        waves = [0.5 + 0.25 * torch.sin(0.3 * rows + c) * torch.cos(0.2 * columns) for c in range(3)]
        noisy = torch.stack(waves)[None]
        with torch.no_grad():
            restored = network(noisy)
        figures = [restored.mean(), restored.std(), (restored - noisy).abs().mean(), *restored[0, :, 24, 24]]
        assert [float(each) for each in figures] == pytest.approx([mean, std, change, *middle], abs=2e-6)

    def test_real_noise(self, official: tuple[str, nn.Module]) -> None:
        """Middles of the 15 CC crops; MED_TEST_WHOLE=1 takes the whole crops, and holds to the published figures."""
        name, network = official
        folder = SHARED / "data" / "real" / "cc15"
        if not folder.exists():
            pytest.skip("the CC crops are not beside this checkout")
        whole = bool(os.environ.get("MED_TEST_WHOLE"))
        part = slice(None) if whole else slice(224, 288)
        wanted = {"dnd": (33.41, 35.48), "sidd": (33.41, 31.25)} if whole else MIDDLES
        scores = []
        for path in sorted((folder / "noisy").iterdir()):
            noisy, clean = (cv2.imread(str(each))[part, part, ::-1] for each in (path, folder / "clean" / path.name))
            batch = torch.from_numpy(noisy.transpose(2, 0, 1)[None] / np.float32(255))
            with torch.no_grad():
                restored = network(batch)[0].mul(255).round().clamp(0, 255).numpy().transpose(1, 2, 0)
            scores.append([cv2.PSNR(each.astype(np.float64), clean.astype(np.float64)) for each in (noisy, restored)])
        assert len(scores) == 15
        assert np.mean(scores, axis=0) == pytest.approx(wanted[name], abs=0.02)


MIDDLES = {"dnd": (33.45, 34.99), "sidd": (33.45, 32.07)}
