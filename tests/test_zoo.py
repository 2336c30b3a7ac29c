"""Claims about weight files and the catalogue."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_UNET
from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.errors import ModelError
from medcli.zoo import catalog, weights
from medcli.zoo.model import find_model

CARD = weights.Card(id="tiny", architecture="unet", config=TINY_UNET, licence="MIT", training_data=["waves"], steps=3)


@pytest.fixture
def weight_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    weights.save(path, weights.build(CARD), CARD)
    return path


class TestWeights:
    def test_the_same_weights_give_the_same_bytes(self, weight_file: Path, tmp_path: Path) -> None:
        """Across processes, because safetensors orders metadata by a hash that is salted per process."""
        code = (
            "import sys, torch; from pathlib import Path; from medcli.zoo import weights\n"
            "network, card = weights.load_network(Path(sys.argv[1])); weights.save(Path(sys.argv[2]), network, card)"
        )
        for number in range(2):
            again = tmp_path / f"{number}.safetensors"
            subprocess.run([sys.executable, "-c", code, weight_file, again], check=True)
            assert again.read_bytes() == weight_file.read_bytes()

    def test_reading_a_card_needs_no_torch(self, weight_file: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from medcli.zoo import catalog, weights\n"
            "card = weights.read_card(Path(sys.argv[1])); catalog.entries()\n"
            "assert 'torch' not in sys.modules; print(card.id)"
        )
        done = subprocess.run([sys.executable, "-c", code, weight_file], check=True, capture_output=True, text=True)
        assert done.stdout == "tiny\n"

    @pytest.mark.parametrize("size", [0, 5, 8, 100, -1])
    def test_truncated_files_are_refused(self, weight_file: Path, size: int) -> None:
        weight_file.write_bytes(weight_file.read_bytes()[:size])
        with pytest.raises(ModelError):
            weights.load_network(weight_file)

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        foreign = tmp_path / "foreign.safetensors"
        save_file({"weight": torch.zeros(3)}, foreign)
        text = tmp_path / "text.safetensors"
        text.write_text("hello, I am not a model at all")
        huge = tmp_path / "huge.safetensors"
        huge.write_bytes(struct.pack("<Q", 2**62) + b"{}")
        for path in (foreign, text, huge, tmp_path / "absent.safetensors", tmp_path):
            with pytest.raises(ModelError):
                weights.load_network(path)

    @settings(max_examples=150, deadline=None)
    @given(position=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans())
    def test_a_mutated_file_is_an_error_or_a_network(
        self, tmp_path_factory: pytest.TempPathFactory, position: float, value: int, cut: bool
    ) -> None:
        folder = tmp_path_factory.mktemp("mutated")
        path = folder / "tiny.safetensors"
        weights.save(path, weights.build(CARD), CARD)
        data = bytearray(path.read_bytes())
        place = int(position * (min(len(data), 4000) - 1))  # mostly the header
        data[place] = value
        path.write_bytes(data[:place] if cut else data)
        try:
            network, _ = weights.load_network(path)
        except ModelError:
            return
        assert sum(p.numel() for p in network.parameters()) > 0

    def test_weights_that_do_not_fit_are_refused(self, weight_file: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.safetensors"
        weights.save(other, weights.build(CARD), replace(CARD, config=TINY_UNET | {"widths": [8, 24]}))
        with pytest.raises(ModelError, match="do not fit"):
            weights.load_network(other)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"architecture": "unett"}, "Did you mean 'unet'"),
            ({"config": {"wings": 2}}, "cannot be built"),
            ({"config": {"widths": [8, 16], "blocks": [1, 1]}}, "cannot be built"),
        ],
    )
    def test_a_card_that_cannot_be_built(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ModelError) as caught:
            weights.build(replace(CARD, **change))
        assert message in str(caught.value)


class TestCatalog:
    def test_every_model_is_whole_and_says_the_same_as_its_file(self) -> None:
        for entry in catalog.entries().values():
            if entry.hub is not None:  # not here, and nothing of ours
                continue
            catalog.verify(entry)
            card = weights.read_card(entry.path)
            assert (card.id, card.architecture, card.licence) == (entry.id, entry.architecture, entry.licence)
            assert card.training_data == entry.training_data

    def test_bundled_weights_stay_small(self) -> None:
        assert sum(path.stat().st_size for path in catalog.WEIGHTS.glob("*.safetensors")) < 60e6
        bundled = [entry for entry in catalog.entries().values() if entry.hub is None]
        names = {name for entry in bundled for name in (entry.file, entry.vector_name)}
        assert {path.name for path in catalog.WEIGHTS.glob("*.safetensors")} == names

    def test_names_files_and_runs_are_found(self, weight_file: Path) -> None:
        assert find_model("photo").path.name == "photo.safetensors"
        assert find_model(str(weight_file)).path == weight_file
        assert find_model(str(weight_file.parent)).path == weight_file

    def test_unknown_names_get_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="Did you mean 'photo'"):
            find_model("phota")
        with pytest.raises(ModelError, match="no model file"):
            find_model(str(tmp_path / "nowhere.safetensors"))
        with pytest.raises(ModelError, match="holds 0 weight files"):
            find_model(str(tmp_path))

    def test_corrupt_weights_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        original = catalog.entries()["photo"].path.read_bytes()
        changed = original[:-1] + bytes([original[-1] ^ 1])
        monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
        for data in (changed, original[:-1], None):
            if data is not None:
                (tmp_path / "photo.safetensors").write_bytes(data)
            else:
                (tmp_path / "photo.safetensors").unlink()
            with pytest.raises(ModelError, match=r"corrupt|missing"):
                find_model("photo")

    @pytest.mark.parametrize("text", ["", "models", "models: 3", "models:\n- {id: x, colour: red}", "models: [3]", "{"])
    def test_a_malformed_catalogue_is_an_error(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "models.yaml"
        path.write_text(text)
        with pytest.raises(ModelError):
            catalog.entries(path)


class TestShippedModels:
    """What the zoo promises of its weights, on an image made here."""

    @pytest.fixture
    def clean(self) -> np.ndarray:
        rows, columns = np.mgrid[0:160, 0:192] / 64
        waves = [np.sin(2 * rows + c) * np.cos(3 * columns) + (columns + rows > 2 + c / 2) for c in range(3)]
        return (np.stack(waves, -1) * 0.2 + 0.4).clip(0, 1).astype(np.float32)

    @pytest.mark.parametrize("name", ["photo", "gaussian"])
    @pytest.mark.parametrize("sigma", [15, 50])
    def test_noise_goes(self, name: str, sigma: int, clean: np.ndarray) -> None:
        import medcli

        noisy = clean + np.random.default_rng(0).normal(0, sigma / 255, clean.shape).astype(np.float32)
        restored = medcli.load(name, device="cpu")(noisy)
        gain = 10 * np.log10(np.mean((noisy - clean) ** 2) / np.mean((restored - clean) ** 2))
        assert gain > 9

    @pytest.mark.parametrize("name", ["photo", "gaussian"])
    def test_tiles_do_not_show(self, name: str, clean: np.ndarray) -> None:
        """Exact where the overlap holds everything a pixel can see; with the default, a grey level or so."""
        import medcli

        wide = np.tile(clean, (1, 3, 1))
        noisy = wide + np.random.default_rng(0).normal(0, 15 / 255, wide.shape).astype(np.float32)
        whole, exact, usual = (
            medcli.load(name, device="cpu", precision="fp32", tile=tile, overlap=overlap)(noisy)
            for tile, overlap in ((0, None), (512, 448), (256, None))
        )
        assert np.abs(exact - whole).max() < 1e-5
        assert np.abs(usual - whole).max() < 3 / 255
        assert np.sqrt(np.mean((usual - whole) ** 2)) < 0.2 / 255

    @pytest.mark.parametrize("name", ["photo", "gaussian"])
    def test_a_clean_image_is_left_alone(self, name: str, clean: np.ndarray) -> None:
        import medcli

        restored = medcli.load(name, device="cpu")(clean)
        assert -10 * np.log10(np.mean((restored - clean) ** 2)) > 45


def test_the_catalogue_is_the_one_at_the_root() -> None:
    rows = yaml.safe_load(catalog.catalog_path().read_text())["models"]
    assert [row["id"] for row in rows] == list(catalog.entries())
    assert json.dumps(rows)  # plain data
