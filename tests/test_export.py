"""Claims about models in the form of other runtimes."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import TINY_UNET
from test_archs import build
from torch import Tensor, nn

from medcli.cli.models.export import command
from medcli.errors import ModelError, OutputError
from medcli.registry import ARCHITECTURES
from medcli.zoo import export as module
from medcli.zoo import weights
from medcli.zoo.export import EXTRA_FILE, FORMS, INPUT, NEEDED, OPSET, OUTPUT, TOLERANCE, export, notes

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

CARD = weights.Card(id="tiny", architecture="unet", config=TINY_UNET, licence="CC-BY-4.0", training_data=["waves"])
ABSENT = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(ABSENT), reason=f"{' and '.join(ABSENT)} is not installed")


@pytest.fixture
def weight_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    weights.save(path, build("unet"), CARD)
    return path


def image(network: Any, high: int, wide: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(1, 3, high * network.multiple, wide * network.multiple, generator=generator)


def run_onnx(path: Path, noisy: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT], {INPUT: noisy.numpy()})[0])


def type_in(*arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class Picky(nn.Module):
    """A network that asks its image before it decides."""

    channels, multiple, receptive_field = 3, 1, 1

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy * 2 if noisy.sum() > 0 else noisy


class Sized(nn.Module):
    """A network whose answer depends on a size that becomes a constant when it is recorded."""

    channels, multiple, receptive_field = 3, 1, 1

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy * (1 + 1 / float(noisy.shape[3]))


class Bound(Sized):
    """A network whose record takes no image but of one size."""

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy + torch.ones(int(noisy.shape[3]))


class Shy(Sized):
    """A network that cannot be recorded."""

    def forward(self, noisy: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("not while you look")
        return noisy


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torchscript_answers_as_the_network_at_any_size(name: str, tmp_path: Path) -> None:
    network = build(name)
    written = export(network, CARD, tmp_path / "a.pt", form="torchscript")
    loaded = torch.jit.load(tmp_path / "a.pt")  # type: ignore[no-untyped-call]
    for size in ((5, 7), (9, 4)):
        noisy = image(network, *size)
        assert torch.allclose(loaded(noisy), network(noisy), rtol=0, atol=TOLERANCE)
    assert (written.size, written.bytes) == (None, (tmp_path / "a.pt").stat().st_size)


@needs_onnx
def test_onnx_answers_as_the_network_at_any_size(tmp_path: Path) -> None:
    network = build("unet")
    written = export(network, CARD, tmp_path / "a.onnx", form="onnx")
    for size in ((5, 7), (9, 4), (1, 1)):
        noisy = image(network, *size)
        assert torch.allclose(run_onnx(tmp_path / "a.onnx", noisy), network(noisy), rtol=0, atol=TOLERANCE)
    assert written.difference <= TOLERANCE
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


@needs_onnx
def test_onnx_says_what_it_is(tmp_path: Path) -> None:
    import onnx

    network = build("unet")
    export(network, CARD, tmp_path / "a.onnx", form="onnx", size=(16, 24))
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model)
    assert {item.key: item.value for item in model.metadata_props} == notes(network, CARD, (16, 24))
    assert model.opset_import[0].version == OPSET
    (taken,) = model.graph.input
    assert [axis.dim_value for axis in taken.type.tensor_type.shape.dim] == [1, 3, 16, 24]


def test_torchscript_says_what_it_is(tmp_path: Path) -> None:
    network = build("unet")
    export(network, CARD, tmp_path / "a.pt", form="torchscript")
    files = {EXTRA_FILE: ""}
    torch.jit.load(tmp_path / "a.pt", _extra_files=files)  # type: ignore[no-untyped-call]
    output = json.loads(files[EXTRA_FILE])
    assert output == notes(network, CARD, None)
    assert (output["id"], output["licence"], output["multiple"]) == ("tiny", "CC-BY-4.0", str(network.multiple))
    assert (output["value_range"], output["size"]) == ("[0, 1]", "dynamic")


@pytest.mark.parametrize(
    ("network", "form", "size", "words"),
    [
        pytest.param(Picky(), "onnx", None, "cannot be exported to ONNX for images of any size", marks=needs_onnx),
        (Sized(), "torchscript", None, "differs from the model by"),
        (Bound(), "torchscript", None, "does not run on all supported image sizes"),
        (Shy(), "torchscript", (32, 32), "cannot be exported to TorchScript for 32x32"),
    ],
)
def test_what_cannot_be_exported_is_an_error_and_leaves_no_file(
    network: nn.Module, form: str, size: tuple[int, int] | None, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        export(network, CARD, tmp_path / "a", form=form, size=size)
    assert "other form" in caught.value.hint
    assert ("--size" in caught.value.hint) == (size is None or words.startswith("differs"))
    assert list(tmp_path.iterdir()) == []


def test_one_size_is_enough_for_a_network_that_is_bound_to_it(tmp_path: Path) -> None:
    written = export(Bound(), CARD, tmp_path / "a.pt", form="torchscript", size=(20, 33))
    assert written.size == (20, 33)


@pytest.mark.parametrize("answer", [math.nan, math.inf])
def test_an_answer_that_is_no_number_is_refused(answer: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: Any, *_: object) -> tuple[bytes, Any]:
        answers = iter([0.0, answer, 0.0])
        return b"content", lambda noisy: network(noisy) + next(answers)

    monkeypatch.setattr(module, "FORMS", {"broken": broken})
    with pytest.raises(ModelError, match="does not run"):
        export(build("unet"), CARD, tmp_path / "a", form="broken")
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_does_not_fit_names_the_next_that_does(tmp_path: Path) -> None:
    network = build("unet")
    assert network.multiple == 4
    with pytest.raises(ModelError, match="multiples of 4 pixels, not 30x41") as caught:
        export(network, CARD, tmp_path / "a.pt", form="torchscript", size=(30, 41))
    assert "--size 32x44" in caught.value.hint


def test_a_form_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no export format called 'onix'") as caught:
        export(build("unet"), CARD, tmp_path / "a", form="onix")
    assert "Did you mean 'onnx'" in caught.value.hint


def test_missing_packages_are_named(weight_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="onnx and onnxscript and onnxruntime") as caught:
        type_in(weight_file, "--to", "onnx", "-o", weight_file.with_suffix(".onnx"))
    assert caught.value.hint == "pip install 'medcli[onnx]'"


class TestDoor:
    def test_it_says_what_callers_must_do(self, weight_file: Path) -> None:
        target = weight_file.with_name("out") / "tiny.pt"
        output = type_in(weight_file, "--to", "torchscript", "-o", target).stderr
        assert f"{target} is ready: TorchScript" in output
        assert "for any height and width" in output
        assert "must be multiples of 4" in output
        assert torch.jit.load(target) is not None  # type: ignore[no-untyped-call]

    def test_a_strategy_is_not_in_the_file(self, weight_file: Path) -> None:
        weights.save(weight_file, build("unet"), replace(CARD, strategy="flips"))
        output = type_in(
            weight_file, "--to", "torchscript", "--size", "8x8", "-o", weight_file.with_suffix(".pt")
        ).stderr
        assert "strategy 'flips'" in output
        assert "for 8x8" in output

    def test_files_are_overwritten_only_by_force(self, weight_file: Path) -> None:
        target = weight_file.with_suffix(".pt")
        target.write_text("mine")
        with pytest.raises(OutputError, match="exists"):
            type_in(weight_file, "--to", "torchscript", "-o", target)
        assert target.read_text() == "mine"
        type_in(weight_file, "--to", "torchscript", "-o", target, "--force")
        assert target.read_bytes()[:2] == b"PK"

    @pytest.mark.parametrize("size", ["big", "8", "8x", "-8x8", "8x8x8", ""])
    def test_sizes_that_make_no_sense(self, size: str, weight_file: Path) -> None:
        result = type_in(weight_file, "--to", "onnx", "-o", weight_file.with_suffix(".onnx"), "--size", size)
        assert result.exit_code == click.UsageError.exit_code
        assert "512x768" in result.stderr

    def test_the_help_lists_what_is_there(self) -> None:
        (option,) = (item for item in command.params if item.name == "form")
        assert isinstance(option.type, click.Choice)
        assert set(option.type.choices) == set(FORMS)
