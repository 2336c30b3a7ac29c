"""Claims about the catalogue: what a row may hold, that it tells the truth, and how a name becomes a file."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_UNET
from torch.utils.flop_counter import FlopCounterMode

import medcli
from medcli.errors import ModelError
from medcli.zoo import catalog, schema, vectors, weights
from medcli.zoo.fetch import HubFile

TEXT = catalog.catalog_path().read_text(encoding="utf-8")
KNOWN = catalog.entries()
BUNDLED = [entry for entry in KNOWN.values() if entry.hub is None]
DENOISERS = [entry for entry in BUNDLED if entry.domain != "noise"]
HUB = [entry for entry in KNOWN.values() if entry.hub is not None]
CARD = weights.Card(id="tiny", architecture="unet", config=TINY_UNET, licence="MIT", training_data=["waves"])


def read(text: str, folder: Path) -> dict[str, catalog.Entry]:
    path = folder / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return catalog.entries(path)


def letter(text: str, folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read(text, folder)
    assert caught.value.hint, "a letter says what to do"
    return str(caught.value)


class TestSchema:
    def test_every_field_has_a_rule_and_every_rule_a_field(self) -> None:
        assert {item.name for item in fields(catalog.Entry)} == set(schema.FIELDS)

    def test_a_row_survives_its_way_through_an_entry(self, tmp_path: Path) -> None:
        rows = [catalog.as_row(entry) for entry in KNOWN.values()]
        rows[0] |= {"noises": ["drop:0.5", "rescale:2+gaussian:1e+1"]}
        assert json.loads(json.dumps(rows)) == rows
        again = read(yaml.safe_dump({"models": rows}), tmp_path)
        assert again == KNOWN | {"photo": replace(KNOWN["photo"], noises=rows[0]["noises"])}
        assert again["photo"].card.noises == rows[0]["noises"]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("  title: Photographs, scans", "  titel: Photographs, scans", "Did you mean 'title'"),
            ("  half_safe: true", "  half_safe: 1", "'1' is neither true nor false"),
            ("  half_safe: true", "  half_safe: yes", "'yes' is neither true nor false"),
            ("  channels: 3\n", "  channels: three\n", "'three' is not a whole number"),
            ("  channels: 3\n", "  channels: 0\n", "'0' is not a whole number from 1"),
            ("  channels: 3\n", "  channels: 3\n  channels: 3\n", "stands here twice"),
            ("  multiple: 16", "  multiple: 1_6", "Write digits alone"),
            ("  licence: CC-BY-SA-4.0", "  licence: ''", "an empty text"),
            ("  licence: CC-BY-SA-4.0", "  licence: 4.0", "need quotes"),
            ("  licence: CC-BY-SA-4.0", "  licence: 2026-13-45", "need quotes"),
            ("  licence: CC-BY-SA-4.0", "  licence: [MIT]", "a list is not a text"),
            ("  licence: CC-BY-SA-4.0", "  licence: !!python/name:os.system x", "is not a text"),
            ("  architecture: unet", "  architecture: unnet", "Did you mean 'unet'"),
            ("  strategy: plain", "  strategy: plane", "Did you mean 'plain'"),
            ("  domain: photo", "  domain: photos", "Did you mean 'photo'"),
            ("  value_range: [0, 1]", "  noises: [read:2+dropp:0.5]\n  value_range: [0, 1]", "Did you mean 'drop'"),
            ("  value_range: [0, 1]", "  noises: drop:0.5\n  value_range: [0, 1]", "a list is expected"),
            ("  value_range: [0, 1]", "  value_range: [1, 0]", "two ascending numbers"),
            ("  value_range: [0, 1]", "  value_range: [0, .inf]", "'.inf' is not a number"),
            ("  sha256: 135066", "  sha256: 13506g", "64 digits of 0-9 and a-f"),
            ("  sha256: 135066", "  sha256: 13506", "64 digits of 0-9 and a-f"),
            ("  file: photo.safetensors", "  file: ../photo.safetensors", "without a folder"),
            ("  file: photo.safetensors", "  file: photo.pth", ".safetensors file"),
            ("  bytes: 7249912", "  bytes: null", "null for Hub models only"),
            ("  source: bundled", "  source: bundle", "'bundle' is not a source"),
            ("    kind: model", "    kind: modell", "Did you mean 'model'"),
            ("    kind: model", "    branch: main", "unknown key 'branch'"),
            ("    kind: model", "  file: x.safetensors", "is named in 'source'"),
            ("    revision: 9526c38b", "    revision: main #", "40 digits"),
            ("    file: NAFNet-SIDD-width32.pth", "    file: ../NAFNet.pth", "path in the repository"),
            ("    file: NAFNet-SIDD-width32.pth", "    file: /etc/passwd", "path in the repository"),
            ("    repo: mikestealth/", "    repo: mikestealth\\", "owner/name"),
            ("- id: gaussian", "- id: photo", "the id 'photo' is taken"),
            ("- id: gaussian", "- id: Gaussian", "small letters"),
            ("- id: gaussian", "- id: ../x", "small letters"),
            ("  training_data: [photos,", "  training_data: [3,", "'3' is not a text"),
            ("  training_data: [photos, clic25, snapshots, cid22]", "  training_data: photos", "a list is expected"),
            ("    CBSD68 sigma 15, float, PSNR dB: 33.4\n", "    CBSD68: good\n", "'good' is not a number"),
            ("  config: {channels: 3,", "  config: {channels: .nan,", "'.nan' is not a number"),
            ("  config: {channels: 3,", "  config: {3: 3,", "'3' is not a text"),
            ("models:\n", "models:\n- 3\n", "'3' where keys and values are expected"),
            ("models:\n", "colours: []\nmodels:\n", "unknown key 'colours'"),
            ("  source: bundled", "  source: &a bundled\n  colour: *a", "aliases"),
            ("  source: bundled", "  source: ]", "cannot be read"),
            ("  config: {", "  config: " + "{a: " * 12 + "{", "nested too deeply"),
            ("  source: bundled", "  source: \x07bundled", "a character that YAML does not allow"),
        ],
    )
    def test_the_letter_names_file_line_and_remedy(self, old: str, new: str, message: str, tmp_path: Path) -> None:
        assert old in TEXT
        text = TEXT.replace(old, new, 1)
        told = letter(text, tmp_path)
        assert message in told
        place = next(i for i, (a, b) in enumerate(zip(TEXT, text, strict=False)) if a != b)
        line = text.count("\n", 0, place) + 1
        assert any(told.startswith(f"{tmp_path / 'models.yaml'}, line {near}: ") for near in range(line, line + 4))

    @pytest.mark.parametrize("key", [key for key in schema.FIELDS if key not in ("id", *schema.BUNDLED_OPTIONAL)])
    def test_a_missing_key_is_named_with_its_model(self, key: str, tmp_path: Path) -> None:
        row = {name: value for name, value in catalog.as_row(KNOWN["photo"]).items() if name != key}
        told = letter(yaml.safe_dump({"models": [row]}, sort_keys=False), tmp_path)
        assert f"line 2: '{key}' is missing in model 'photo'" in told

    @pytest.mark.parametrize("text", ["", "models", "models: 3", "models: [3]", "{", "colours: []", "[" * 5000, "\x00"])
    def test_what_is_no_catalogue_is_a_letter(self, text: str, tmp_path: Path) -> None:
        letter(text, tmp_path)

    def test_files_that_cannot_be_read_are_letters(self, tmp_path: Path) -> None:
        (tmp_path / "models.yaml").write_bytes(b"models: \xff\xfe")
        for path in (tmp_path / "models.yaml", tmp_path, tmp_path / "absent.yaml"):
            with pytest.raises(ModelError):
                catalog.entries(path)

    def test_a_hub_row_may_leave_its_size_unstated(self) -> None:
        entry = KNOWN["nafnet-sidd-32"]
        assert isinstance(entry.hub, HubFile)
        assert (entry.bytes, entry.hub.bytes, entry.file, entry.tolerance) == (None, None, entry.hub.file, None)


@pytest.mark.parametrize("entry", KNOWN.values(), ids=KNOWN)
class TestRowsTellTheTruth:
    def test_about_the_network(self, entry: catalog.Entry) -> None:
        with torch.device("meta"):
            network: Any = weights.build(entry.card).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.empty(1, entry.channels, 256, 256))
        assert entry.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert entry.macs_per_pixel == round(counter.get_total_flops() / 2 / 256**2)
        assert (entry.channels, entry.multiple) == (network.channels, network.multiple)
        assert entry.receptive_field == network.receptive_field
        assert entry.config == network.config

    def test_in_the_words_of_the_weights(self, entry: catalog.Entry) -> None:
        if entry.hub is not None:
            pytest.skip("its weights are not ours and not here")
        card = weights.read_card(catalog.verify(entry))
        learned = card.gray if card.gray is not None else entry.gray  # older files do not say
        assert replace(card, steps=0, version="", gray=learned) == entry.card


class TestVectors:
    @pytest.mark.parametrize("entry", BUNDLED, ids=lambda entry: entry.id)
    def test_every_bundled_model_agrees_with_its_vector(self, entry: catalog.Entry) -> None:
        network, _ = weights.load_network(entry.path)
        assert entry.tolerance is not None
        assert vectors.check(entry.vector, network) <= entry.tolerance
        assert entry.vector.stat().st_size < 20_000

    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5)], ids=str)
    @pytest.mark.parametrize("entry", DENOISERS, ids=lambda entry: entry.id)
    def test_a_tiny_picture_of_one_colour_stays_about_as_it_is(
        self, entry: catalog.Entry, size: tuple[int, int]
    ) -> None:
        """One of masks may hide all of it, in which case there is nothing to guess it from."""
        pixels = np.full((*size, 3), 200, np.uint8)
        restored = medcli.denoise(pixels, entry.id, device="cpu", precision="fp32")
        assert np.abs(restored.astype(int) - pixels).max() < 20

    def test_other_weights_do_not_agree(self) -> None:
        first, second = BUNDLED[:2]
        network, _ = weights.load_network(first.path)
        assert vectors.check(second.vector, network) > 100 * second.tolerance
        with torch.no_grad():
            network.tail.weight[0, 0, 0, 0] += 0.01  # one number of 3.6 million
        assert vectors.check(first.vector, network) > first.tolerance

    def test_there_is_noise_and_the_model_removes_some(self) -> None:
        network, card = weights.load_network(BUNDLED[0].path)
        made = vectors.make(network, card)
        assert made["noisy"].shape == made["restored"].shape == (1, 3, 32, 32)
        assert (made["restored"] - made["noisy"]).abs().mean() * 255 > 10

    def test_the_same_network_gives_the_same_bytes(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = weights.build(CARD)
        for name in "ab":
            vectors.write(tmp_path / name, network, CARD)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert vectors.check(tmp_path / "a", network) == 0

    @pytest.mark.parametrize("channels", [1, 4])
    def test_any_number_of_channels_and_any_multiple(self, channels: int) -> None:
        card = replace(CARD, channels=channels, config=TINY_UNET | {"channels": channels, "unshuffle": 20})
        assert vectors.make(weights.build(card), card)["noisy"].shape == (1, channels, 40, 40)

    def test_what_is_no_vector_of_this_network_is_a_letter(self, tmp_path: Path) -> None:
        network = weights.build(CARD)
        (tmp_path / "text").write_text("hello")
        weights.save(tmp_path / "weights", network, CARD)
        gray = replace(CARD, channels=1, config=TINY_UNET | {"channels": 1})
        vectors.write(tmp_path / "gray", weights.build(gray), gray)
        for name in ("absent", "text", "weights", "gray", ""):
            with pytest.raises(ModelError):
                vectors.check(tmp_path / name, network)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own, where the Hub's cache is empty and the Hub must not be asked."""

    def unreachable(*_: object, **__: object) -> Path:
        raise AssertionError("the network was asked")

    monkeypatch.setenv("MED_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medcli.zoo.fetch.cached", lambda file: None)
    monkeypatch.setattr("medcli.zoo.fetch.fetch", unreachable)
    monkeypatch.setattr("medcli.zoo.fetch.remove", lambda file: 0)
    return catalog.store()


class TestLocate:
    def test_bundled_weights_are_hashed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        catalog.locate("photo")
        monkeypatch.setattr("hashlib.sha256", None)
        assert catalog.locate("photo") == catalog.WEIGHTS / "photo.safetensors"

    def test_a_changed_file_is_hashed_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = (catalog.WEIGHTS / "photo.safetensors").read_bytes()
        monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
        (tmp_path / "photo.safetensors").write_bytes(whole)
        catalog.locate("photo")
        (tmp_path / "new").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (tmp_path / "new").replace(tmp_path / "photo.safetensors")
        with pytest.raises(ModelError, match="corrupt"):
            catalog.locate("photo")

    def test_a_hub_model_is_fetched_then_converted(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Any] = []

        def fetch(file: HubFile, *, name: str, say: Any) -> Path:
            say("coming")
            calls.append((file, name))
            return Path("raw.pth")

        def converted(raw: Path, card: weights.Card, naming: str, folder: Path) -> Path:
            calls.append((raw, card, naming, folder))
            return folder / "ours.safetensors"

        monkeypatch.setattr("medcli.zoo.fetch.fetch", fetch)
        monkeypatch.setitem(sys.modules, "medcli.zoo.convert", SimpleNamespace(converted=converted))
        said: list[str] = []
        entry = KNOWN["nafnet-sidd-32"]
        folder = store / "converted" / "nafnet-sidd-32"
        assert catalog.locate("nafnet-sidd-32", said.append) == folder / "ours.safetensors"
        assert calls == [(entry.hub, "nafnet-sidd-32"), (Path("raw.pth"), entry.card, "basicsr", folder)]
        assert said == ["coming"]
        assert (entry.card.id, entry.card.config["width"], entry.card.half_safe) == ("nafnet-sidd-32", 32, False)

    def test_the_cache_is_asked_before_the_network(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = replace(KNOWN["nafnet-sidd-32"], naming="")
        monkeypatch.setattr(catalog, "entries", lambda: {entry.id: entry})
        monkeypatch.setattr("medcli.zoo.fetch.cached", lambda file: Path("/cache/raw.safetensors"))
        assert catalog.locate(entry.id) == Path("/cache/raw.safetensors")

    def test_a_home_that_nobody_has_is_a_letter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModelError, match="no model file ~nobody-at-all/x"):
            catalog.locate("~nobody-at-all/x")
        monkeypatch.setenv("MED_HOME", "~nobody-at-all")
        assert catalog.store() == Path("~nobody-at-all/models")

    def test_a_download_is_told_of_unless_one_would_rather_not_know(
        self, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fetch(file: HubFile, *, name: str, say: Any) -> Path:
            say(f"fetching {name}")
            return Path("raw.safetensors")

        monkeypatch.setattr("medcli.zoo.fetch.fetch", fetch)
        monkeypatch.setattr(catalog, "ours", lambda entry, raw: raw)
        catalog.locate("nafnet-sidd-32")
        assert capsys.readouterr().err == "fetching nafnet-sidd-32\n"
        catalog.locate("nafnet-sidd-32", catalog.ignore)
        assert capsys.readouterr().err == ""

    def test_a_corrupt_file_in_the_store_is_not_used(self, store: Path) -> None:
        entry = KNOWN["nafnet-sidd-64"]
        store.mkdir(parents=True)
        entry.path.write_bytes(b"not it")
        with pytest.raises(ModelError, match=r"corrupt(.|\n)*med models rm nafnet-sidd-64"):
            catalog.locate(entry.id)
        assert catalog.remove(entry) == 6
        assert catalog.remove(entry) == 0
        assert not catalog.is_here(entry)

    def test_a_run_gives_what_it_kept(self, tmp_path: Path) -> None:
        for name in ("photo2.safetensors", "photo2.vector.safetensors"):
            (tmp_path / name).touch()
        assert catalog.locate(str(tmp_path)) == tmp_path / "photo2.safetensors"
        (tmp_path / "photo2.safetensors").unlink()
        for name in "ab":
            (tmp_path / f"{name}.safetensors").touch()
        with pytest.raises(ModelError, match="holds 2 weight files"):
            catalog.locate(str(tmp_path))

    def test_the_catalogue_needs_neither_torch_nor_the_hub(self) -> None:
        import subprocess

        code = (
            "import sys; from medcli.zoo import catalog; [catalog.is_here(e) for e in catalog.entries().values()]\n"
            "assert not {'torch', 'numpy', 'httpx', 'httpx2', 'requests', 'rich'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
