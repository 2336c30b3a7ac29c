"""Every runtime gives PyTorch's result, `auto` chooses as documented, and without PyTorch nothing imports it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_archs import build

import medcli
from medcli import cpu
from medcli.archs.graphs.graph import Graph, MisfitError
from medcli.cli import med
from medcli.engine.denoiser import Denoiser
from medcli.engine.runtimes import choice
from medcli.engine.runtimes.choice import LITTLE_WORK, choose_runtime, may_have_gpu
from medcli.engine.runtimes.onnx import OnnxRuntime
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.errors import DeviceError, MedcliError, ModelError
from medcli.registry import GRAPHS
from medcli.zoo import weights
from medcli.zoo.catalog import entries
from medcli.zoo.model import Model, find_model
from medcli.zoo.weights import Card, load_graph, load_network, save

TOLERANCE = 1e-4
HERE = {name for name, package in choice.RUNTIMES.items() if importlib.util.find_spec(package)}
OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(name not in HERE, reason=f"{name} is not installed"))
    for name in choice.RUNTIMES
    if name != "torch"
]
PLAIN = [
    entry.id
    for entry in entries().values()
    if entry.architecture in GRAPHS and entry.strategy == "plain" and entry.source == "bundled"
]


def noisy(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.fixture
def weight_file(tmp_path: Path) -> Callable[[str], Path]:
    """The weight file of a tiny network of an architecture."""

    def written(architecture: str) -> Path:
        network: Any = build(architecture)
        save(tmp_path / f"{architecture}.safetensors", network, Card(architecture, architecture, network.config))
        return tmp_path / f"{architecture}.safetensors"

    return written


class TestGraph:
    @pytest.mark.parametrize("architecture", GRAPHS)
    def test_is_the_network(self, weight_file: Callable[[str], Path], architecture: str) -> None:
        path = weight_file(architecture)
        network: Any = load_network(path)[0]
        model, traits = load_graph(path)
        assert (traits.channels, traits.multiple) == (network.channels, network.multiple)
        assert traits.receptive_field == network.receptive_field
        assert not getattr(network, "global_context", False)
        tile = noisy(3 * traits.multiple, 5 * traits.multiple, traits.channels)
        with torch.inference_mode():
            expected = network(torch.from_numpy(tile).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        restored = OnnxRuntime(model, traits).restore(tile, None, "fp32", lambda: None)  # type: ignore[arg-type]
        np.testing.assert_allclose(restored, expected, rtol=0, atol=TOLERANCE)

    def test_is_valid(self, weight_file: Callable[[str], Path]) -> None:
        onnx = pytest.importorskip("onnx")
        for architecture in GRAPHS:
            onnx.checker.check_model(load_graph(weight_file(architecture))[0], full_check=True)

    @pytest.mark.parametrize(
        ("config", "word"),
        [
            ({"middle": 0}, "nothing there is called 'middle.0"),
            ({"middle": 2}, "the file lacks 'middle.1"),
            ({"widths": [8, 12]}, "is (16, 8, 2, 2) in the file and (12, 8, 2, 2) in the network"),
            ({"widths": "wide"}, "do not fit"),
        ],
    )
    def test_weights_of_another_network_are_refused(self, tmp_path: Path, config: dict[str, Any], word: str) -> None:
        network: Any = build("unet")
        path = tmp_path / "other.safetensors"
        save(path, network, Card("other", "unet", network.config | config))
        with pytest.raises(ModelError) as caught:
            load_graph(path)
        assert word in caught.value.problem

    @pytest.mark.parametrize(
        ("architecture", "config"),
        [
            ("unet", {"unshuffle": 4000}),
            ("unet", {"unshuffle": -2}),
            ("unet", {"blocks": [10**9]}),
            ("unet", {"widths": None}),
            ("unet", {"channels": 3.0}),
            ("plainunet", {"levels": 10**12}),
            ("plainunet", {"levels": -1}),
            ("split", {"encoders": [1]}),
            ("dncnn", {"depth": 10**9}),
        ],
    )
    def test_absurd_configurations_are_refused_at_once(
        self, tmp_path: Path, architecture: str, config: dict[str, Any]
    ) -> None:
        network: Any = build(architecture)
        path = tmp_path / "absurd.safetensors"
        save(path, network, Card("absurd", architecture, network.config | config))
        with pytest.raises(ModelError):
            load_graph(path)

    def test_an_architecture_without_one_is_named(self, weight_file: Callable[[str], Path]) -> None:
        with pytest.raises(ModelError, match="nafnet needs PyTorch"):
            load_graph(weight_file("nafnet"))

    def test_a_damaged_file_is_named(self, weight_file: Callable[[str], Path]) -> None:
        path = weight_file("unet")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ModelError, match="corrupt"):
            load_graph(path)

    def test_weights_of_any_float_type_become_float32(self) -> None:
        tensors = {"last.weight": np.ones((1, 1, 3, 3), np.float16), "last.bias": np.full(1, 0.5)}
        graph = Graph(tensors, 1)
        model = graph.model(graph.conv(graph.noisy, "last", 1))
        runtime = OnnxRuntime(model, SimpleNamespace(channels=1, multiple=1, receptive_field=1, global_context=False))  # type: ignore[arg-type]
        restored = runtime.restore(np.ones((4, 4, 1), np.float32), None, "fp32", lambda: None)  # type: ignore[arg-type]
        assert restored[1, 1, 0] == 9.5
        with pytest.raises(MisfitError):
            Graph(tensors, 2).conv(Graph(tensors, 2).noisy, "last", 1)


@pytest.mark.parametrize("runtime", OTHERS)
class TestResults:
    @pytest.mark.parametrize("name", PLAIN)
    @pytest.mark.parametrize("shape", [(40, 55, 3), (37, 41)], ids=["colour", "gray"])
    def test_every_model_equals_torch_in_fp32(self, runtime: str, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) == 3 and entries()[name].channels == 1:
            pytest.skip("a model for gray")
        image = noisy(*shape)
        expected = medcli.load(name, device="cpu", precision="fp32", runtime="torch")(image)
        restored = medcli.load(name, device="cpu", precision="fp32", runtime=runtime)(image)
        assert np.abs(expected - image).max() > TOLERANCE
        np.testing.assert_allclose(restored, expected, rtol=0, atol=TOLERANCE)

    def test_tiles_and_progress_are_the_engines(self, runtime: str) -> None:
        image, seen = noisy(100, 130, 3), list[tuple[int, int]]()
        options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "tile": 64}
        denoiser = medcli.load("photo", runtime=runtime, **options)
        restored = denoiser(image, progress=lambda done, total: seen.append((done, total)))
        np.testing.assert_allclose(
            restored, medcli.load("photo", runtime="torch", **options)(image), rtol=0, atol=TOLERANCE
        )
        total = seen[0][1]
        assert total > 4
        assert seen == [(done, total) for done in range(total + 1)]

    @pytest.mark.parametrize(
        ("model", "options", "word"),
        [
            ("photo", {"device": "cuda"}, "not on cuda"),
            ("photo", {"precision": "fp16"}, "not compute in fp16"),
            ("photo", {"ensemble": True}, "no flips"),
            ("amsnet-fast", {}, "no masks"),
        ],
    )
    def test_what_it_cannot_do_is_refused(self, runtime: str, model: str, options: dict[str, Any], word: str) -> None:
        with pytest.raises(MedcliError) as caught:
            medcli.load(model, runtime=runtime, **options)
        assert word in caught.value.problem
        assert caught.value.hint == "Use --runtime torch."

    def test_running_out_of_memory_makes_tiles_smaller(self, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
        denoiser = medcli.load("photo", device="cpu", runtime=runtime)
        run, sides = denoiser.runtime.restore, list[int]()

        def greedy(tile: Any, *rest: Any) -> Any:
            sides.append(max(tile.shape))
            if max(tile.shape) > 100:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 123")
            return run(tile, *rest)

        monkeypatch.setattr(denoiser.runtime, "restore", greedy)
        assert denoiser(noisy(140, 180, 3)).shape == (140, 180, 3)
        assert sides[0] > 100 >= sides[-1]


def test_errors_of_onnx_runtime_become_runtime_errors(capfd: pytest.CaptureFixture[str]) -> None:
    """The engine looks through those for memory that ran out; nothing else is printed."""
    runtime = OnnxRuntime(*find_model("photo").graph())
    with pytest.raises(RuntimeError, match="16 by 17"):
        runtime.restore(np.zeros((17, 17, 3), np.float32), None, "fp32", lambda: None)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")


def test_an_invalid_model_is_named() -> None:
    with pytest.raises(ModelError, match="ONNX Runtime cannot run"):
        OnnxRuntime(b"\x08\x08", find_model("photo").graph()[1])


class TestChoice:
    """CPUs with and without bf16 units, GPUs, and what is asked for."""

    @pytest.fixture(autouse=True)
    def _plain_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu, "multiplies_bf16", lambda: False)
        monkeypatch.setattr(choice, "may_have_gpu", lambda: False)
        monkeypatch.delitem(sys.modules, "torch")

    @pytest.mark.parametrize(
        ("device", "precision", "pixels", "chosen"),
        [
            ("auto", "auto", None, "onnx"),
            ("cpu", "fp32", 10**9, "onnx"),
            ("cpu", "bf16", 1, "torch"),
            ("auto", "fp16", 1, "torch"),
            ("cuda", "auto", 1, "torch"),
            ("mps", "auto", None, "torch"),
        ],
    )
    def test_without_bf16_units(self, device: str, precision: str, pixels: int | None, chosen: str) -> None:
        assert choose_runtime(device, precision, plain=True, pixels=pixels) == chosen

    @pytest.mark.parametrize(
        ("precision", "pixels", "chosen"),
        [
            ("auto", LITTLE_WORK, "onnx"),
            ("auto", LITTLE_WORK + 1, "torch"),
            ("auto", None, "torch"),
            ("fp32", None, "onnx"),
        ],
    )
    def test_with_bf16_units(
        self, monkeypatch: pytest.MonkeyPatch, precision: str, pixels: int | None, chosen: str
    ) -> None:
        monkeypatch.setattr(cpu, "multiplies_bf16", lambda: True)
        assert choose_runtime("auto", precision, plain=True, pixels=pixels) == chosen

    def test_a_torch_that_is_imported_already_costs_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu, "multiplies_bf16", lambda: True)
        monkeypatch.setitem(sys.modules, "torch", torch)
        assert choose_runtime("auto", "auto", plain=True, pixels=1) == "torch"

    def test_a_network_that_only_torch_runs(self) -> None:
        assert choose_runtime("cpu", "fp32", plain=False, pixels=1) == "torch"

    def test_with_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choice, "may_have_gpu", lambda: True)
        assert choose_runtime("auto", "auto", plain=True, pixels=1) == "torch"
        assert choose_runtime("cpu", "auto", plain=True, pixels=1) == "onnx"

    def test_without_onnx_runtime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert choose_runtime("auto", "auto", plain=True, pixels=1) == "torch"
        for name, hint in (("onnx", "pip install onnxruntime"), ("openvino", "pip install 'medcli[openvino]'")):
            with pytest.raises(DeviceError, match="not installed") as caught:
                medcli.load("photo", runtime=name)
            assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("files", "version", "found"),
    [
        ((), "cuda = '12.8'\nhip = None", False),
        (("/dev/nvidiactl",), "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None", True),
        (("/dev/kfd",), "cuda: Optional[str] = None\ngit_version = 'a'\nhip: Optional[str] = '6.4'", True),
        (("/dev/nvidiactl",), "cuda: Optional[str] = None\ngit_version = 'a'\nhip: Optional[str] = None", False),
        (("/dev/nvidiactl",), None, True),
    ],
)
def test_a_gpu_is_looked_for_without_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: tuple[str, ...], version: str | None, found: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(choice, "GPU_FILES", [tmp_path / name.strip("/") for name in choice.GPU_FILES])
    (tmp_path / "dev").mkdir()
    for name in files:
        (tmp_path / name.strip("/")).touch()
    if version is not None:
        (tmp_path / "version.py").write_text(version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert may_have_gpu() is found


def run_alone(folder: Path, *arguments: str, **environment: str) -> tuple[list[str], list[dict[str, Any]]]:
    """The modules that `med` holds at its end, and what it says of its images."""
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: open('modules', 'w').write(' '.join(sys.modules)))\n"
        f"sys.argv = ['med', *{arguments!r}]\n"
        "from medcli.cli import main\nmain()"
    )
    env = os.environ | environment
    env.pop("COVERAGE_PROCESS_START", None)
    env["PYTHONPATH"] = str(Path(medcli.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    events = map(json.loads, done.stdout.splitlines())
    return (folder / "modules").read_text().split(), [each for each in events if each["event"] == "image"]


@pytest.mark.parametrize("model", ["photo", "gaussian-dncnn"])
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "RGBA"])
def test_torch_is_never_imported_on_a_cpu_without_bf16(tmp_path: Path, model: str, mode: str) -> None:
    if mode != "RGB" and model != "photo":
        pytest.skip("once is enough")
    image = Image.fromarray((noisy(30, 40) * 65535).astype(np.uint16)) if mode == "I;16" else Image.new(mode, (40, 30))
    image.save(tmp_path / "a.png")
    env = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    modules, (facts,) = run_alone(
        tmp_path, "denoise", "a.png", "-o", "b.png", "--json", "--device", "cpu", "-m", model, **env
    )
    assert "torch" not in modules
    assert (facts["runtime"], facts["device"], facts["precision"]) == ("onnx", "cpu", "fp32")
    assert (tmp_path / "b.png").exists()


def test_torch_is_imported_where_it_is_needed(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    arguments = ("denoise", "a.png", "-o", "b.png", "--json", "--device", "cpu", "--ensemble")
    modules, (facts,) = run_alone(tmp_path, *arguments)
    assert "torch" in modules
    assert facts["runtime"] == "torch"


def test_threads_follow_the_option_and_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen: dict[str, Any] = {}
    session = onnxruntime.InferenceSession

    def watched(model: bytes, options: Any, **rest: Any) -> Any:
        seen["threads"] = options.intra_op_num_threads
        seen["spins"] = options.get_session_config_entry("session.intra_op.allow_spinning")
        return session(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    OnnxRuntime(*find_model("photo").graph())
    assert seen == {"threads": 3, "spins": "0"}


@pytest.mark.parametrize(("value", "threads"), [("5", 5), ("4,2", 4), ("", 2), ("0", 2), ("many", 2)])
def test_threads_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr(cpu, "usable_cores", lambda: 2)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 8)
    assert cpu.threads() == threads


def test_the_command_names_the_runtime_and_refuses_unknown_ones(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    source, target = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    ran = CliRunner().invoke(med, ["denoise", source, "-o", target, "--runtime", "onnx", "--device", "cpu"])
    assert ran.exit_code == 0
    assert "photo, onnx on cpu, fp32" in ran.stderr
    ran = CliRunner().invoke(med, ["denoise", source, "-o", target, "--runtime", "tensorflow"])
    assert ran.exit_code == 2


def test_models_that_fill_holes_keep_their_brightness_switch(tmp_path: Path) -> None:
    network: Any = build("unet")
    for noise, kept in (("drop:0.5", False), ("gaussian:5-50", True)):
        path = tmp_path / "fills.safetensors"
        save(path, network, Card("fills", "unet", network.config, noises=[noise]))
        assert medcli.load(Model("fills", path), device="cpu", runtime="onnx").keep_brightness is kept


def test_auto_leaves_to_torch_what_has_no_graph(tmp_path: Path) -> None:
    """A configuration may lack what the architecture has a default for."""
    network: Any = build("unet")
    path = tmp_path / "short.safetensors"
    save(path, network, Card("short", "unet", {name: network.config[name] for name in ("widths", "blocks", "middle")}))
    assert medcli.load(path, device="cpu", precision="fp32").runtime.name == "torch"
    with pytest.raises(ModelError, match="do not fit a unet"):
        medcli.load(path, device="cpu", runtime="onnx")


def test_one_set_of_weights(tmp_path: Path) -> None:
    """A change of the file changes both runtimes alike."""
    network: Any = build("unet")
    with torch.no_grad():
        network.tail.bias.add_(0.25)
    path = tmp_path / "a.safetensors"
    save(path, network, Card("a", "unet", network.config))
    image = noisy(24, 24, 3)
    first = Denoiser(TorchRuntime(weights.load_network(path)[0], device="cpu", precision="fp32"))(image)
    second = Denoiser(OnnxRuntime(*weights.load_graph(path)))(image)
    np.testing.assert_allclose(first, second, rtol=0, atol=TOLERANCE)
