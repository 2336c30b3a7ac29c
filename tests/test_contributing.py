"""The examples of CONTRIBUTING.md run as printed: a noise, a network, a method, and a model that uses all three."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_archs
import test_noise
import torch
import yaml
from click.testing import CliRunner

import medcli
from medcli import registry
from medcli.cli import med
from medcli.errors import RecipeError
from medcli.noise.notation import parse
from medcli.zoo import catalog, publish, weights

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+\n# (medcli/\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
ROWS = re.findall(r"^```python\n# (\S+)\.py, in (\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^med .+$", TEXT, re.MULTILINE)


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The printed files as modules of the package, and the printed rows in their tables."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for part in ("archs", "methods", "noise"):
        package = importlib.import_module(f"medcli.{part}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "medcli" / part)])
    for file, table, row in ROWS:
        module = test_archs if file == "tests/test_archs" else registry
        for key, value in ast.literal_eval("{" + row + "}").items():
            monkeypatch.setitem(getattr(module, table), key, value)
    monkeypatch.chdir(tmp_path)
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py").replace("/", "."), None)


def test_every_example_is_found() -> None:
    assert set(FILES) == {
        "medcli/noise/hum.py", "medcli/archs/dilated.py", "medcli/methods/consistent.py",
        "medcli/train/recipes/dehum.yaml",
    }  # fmt: skip
    assert [table for _, table, _ in ROWS] == ["NOISES", "ARCHITECTURES", "TINY", "METHODS"]


def test_the_noise_keeps_the_contract() -> None:
    noise = parse("hum:5-30,period=8")
    assert str(noise) == "hum:5-30,period=8"
    contract = [test for name, test in inspect.getmembers(test_noise.TestEveryNoise, inspect.isfunction)
                if list(inspect.signature(test).parameters) == ["self", "noise"]]  # fmt: skip
    assert len(contract) >= 4
    for test in contract:
        test(test_noise.TestEveryNoise(), noise)
    flat = torch.full((1, 800, 3), 0.5)
    residual = (parse("hum:20,period=8")(flat, torch.Generator().manual_seed(0)) - flat) * 255
    assert residual.std().item() == pytest.approx(20 / 2**0.5, rel=0.01)
    with pytest.raises(RecipeError, match="period"):
        parse("hum:20,period=1")


@pytest.mark.parametrize("name", [name for name in dir(test_archs.TestContract) if name.startswith("test_")])
def test_the_network_keeps_the_contract(name: str, tmp_path: Path) -> None:
    test = getattr(test_archs.TestContract(), name)
    test("dilated", *[tmp_path] * (len(inspect.signature(test).parameters) - 1))


def test_the_model_is_trained_published_and_used(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder.rename("images")
    train, dry_run = COMMANDS
    small = "--steps 3 --patch 16 --batch 1 --workers 0 --device cpu --cache cache"
    for command in (f"{train} {small}", dry_run):
        result = CliRunner().invoke(med, shlex.split(command)[1:], prog_name="med")
        assert result.exit_code == 0, result.output
    row = publish.row(publish.prepare(Path("run"), Path("dehum")), "me/dehum", "0" * 40)
    Path("models.yaml").write_text("models:\n" + row, encoding="utf-8")
    entry = catalog.entries(Path("models.yaml"))["dehum"]
    assert (entry.method, entry.architecture, entry.noises) == ("consistent", "dilated", ["hum:5-30"])
    network, _ = weights.load_network(Path("dehum/model.safetensors"))
    assert network.receptive_field == 16
    noisy = torch.rand(20, 24, 3).numpy()
    assert medcli.load("run", device="cpu")(noisy).shape == noisy.shape


def test_pre_commit_runs_the_linters_of_ci() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    commands = [" ".join([hook["entry"], *hook.get("args", [])]) for hook in hooks]
    assert commands == re.findall(r"^(?:ruff|mypy).*$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
