"""Claims about how a name becomes a model, and how little is read for it."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import TINY_UNET
from PIL import Image

from medcli.cli import med
from medcli.errors import ModelError
from medcli.files import checksum
from medcli.zoo import catalog, weights
from medcli.zoo.fetch import HubFile, ignore
from medcli.zoo.model import blind_spot_models, find_model

KNOWN = catalog.entries()
CARD = weights.Card(id="tiny", architecture="unet", config=TINY_UNET, licence="MIT", training_data=["waves"])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own, where the Hub's cache is empty and the Hub must not be requested."""

    def unreachable(*_: object, **__: object) -> Path:
        raise AssertionError("the network was requested")

    monkeypatch.setenv("MED_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("medcli.zoo.fetch.cached", lambda file: None)
    monkeypatch.setattr("medcli.zoo.fetch.fetch", unreachable)
    monkeypatch.setattr("medcli.zoo.fetch.remove", lambda file: 0)
    return catalog.store()


class TestFind:
    def test_bundled_weights_are_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        find_model("photo")
        monkeypatch.setattr(checksum, "_read", lambda _: pytest.fail("read again"))
        assert find_model("photo").path == catalog.WEIGHTS / "photo.safetensors"

    def test_a_changed_file_is_hashed_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = (catalog.WEIGHTS / "photo.safetensors").read_bytes()
        monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
        (tmp_path / "photo.safetensors").write_bytes(whole)
        find_model("photo")
        (tmp_path / "new").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (tmp_path / "new").replace(tmp_path / "photo.safetensors")
        with pytest.raises(ModelError, match="corrupt"):
            find_model("photo")

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
        assert find_model("nafnet-sidd-32", said.append).path == folder / "ours.safetensors"
        assert calls == [(entry.hub, "nafnet-sidd-32"), (Path("raw.pth"), entry.card, "basicsr", folder)]
        assert said == ["coming"]
        assert (entry.card.id, entry.card.config["width"], entry.card.half_safe) == ("nafnet-sidd-32", 32, False)

    def test_the_cache_is_searched_before_the_network(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = replace(KNOWN["nafnet-sidd-32"], naming="")
        monkeypatch.setattr(catalog, "entries", lambda: {entry.id: entry})
        monkeypatch.setattr("medcli.zoo.fetch.cached", lambda file: Path("/cache/raw.safetensors"))
        assert find_model(entry.id).path == Path("/cache/raw.safetensors")

    def test_the_home_of_an_unknown_user_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModelError, match="no model file ~nobody-at-all/x"):
            find_model("~nobody-at-all/x")
        monkeypatch.setenv("MED_HOME", "~nobody-at-all")
        assert catalog.store() == Path("~nobody-at-all/models")

    def test_a_download_is_announced_unless_quiet(
        self, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fetch(file: HubFile, *, name: str, say: Any) -> Path:
            say(f"fetching {name}")
            return Path("raw.safetensors")

        monkeypatch.setattr("medcli.zoo.fetch.fetch", fetch)
        monkeypatch.setattr(catalog, "ours", lambda entry, raw: raw)
        find_model("nafnet-sidd-32")
        assert capsys.readouterr().err == "fetching nafnet-sidd-32\n"
        find_model("nafnet-sidd-32", ignore)
        assert capsys.readouterr().err == ""

    def test_a_corrupt_file_in_the_store_is_not_used(self, store: Path) -> None:
        entry = KNOWN["nafnet-sidd-64"]
        store.mkdir(parents=True)
        entry.path.write_bytes(b"not it")
        with pytest.raises(ModelError, match=r"corrupt(.|\n)*med models rm nafnet-sidd-64"):
            find_model(entry.id)
        assert catalog.remove(entry) == 6
        assert catalog.remove(entry) == 0
        assert not catalog.is_here(entry)

    def test_a_run_gives_what_it_kept(self, tmp_path: Path) -> None:
        for name in ("photo2.safetensors", "photo2.vector.safetensors"):
            (tmp_path / name).touch()
        assert find_model(str(tmp_path)).path == tmp_path / "photo2.safetensors"
        (tmp_path / "photo2.safetensors").unlink()
        for name in "ab":
            (tmp_path / f"{name}.safetensors").touch()
        with pytest.raises(ModelError, match="holds 2 weight files"):
            find_model(str(tmp_path))


class TestModel:
    @pytest.fixture
    def tiny(self, tmp_path: Path) -> Path:
        torch.manual_seed(0)
        weights.save(tmp_path / "tiny.safetensors", weights.build(CARD), CARD)
        return tmp_path / "tiny.safetensors"

    def test_one_read_of_catalogue_and_weights_in_a_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the name to the restored image, with the catalogue's checksum and the manifest's."""
        (tmp_path / "models.yaml").write_bytes(catalog.catalog_path().read_bytes())
        (tmp_path / "amsnet-fast.safetensors").write_bytes(KNOWN["amsnet-fast"].path.read_bytes())
        monkeypatch.setattr(catalog, "catalog_path", lambda: tmp_path / "models.yaml")
        monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
        loads: list[object] = []
        reads: list[Path] = []
        load, read = yaml.load, checksum._read
        monkeypatch.setattr(yaml, "load", lambda *given: loads.append(given) or load(*given))
        monkeypatch.setattr(checksum, "_read", lambda path, *states: reads.append(path) or read(path, *states))
        Image.new("L", (32, 32), 99).save(tmp_path / "in.png")
        command = ["denoise", tmp_path / "in.png", "-m", "amsnet-fast", "--samples", "1", "--device", "cpu"]
        result = CliRunner().invoke(med, [*map(str, command)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert (len(loads), reads) == (1, [tmp_path / "amsnet-fast.safetensors"])

    def test_checksums_are_those_of_catalogue_and_manifests(self) -> None:
        """Manifests of earlier versions hold BLAKE2b of the weights."""
        data = KNOWN["amsnet-fast"].path.read_bytes()
        blake2b = hashlib.blake2b(data, digest_size=20).hexdigest()
        assert find_model("amsnet-fast").checksums == (len(data), KNOWN["amsnet-fast"].sha256, blake2b)

    def test_a_file_says_what_the_catalogue_would(self, tiny: Path) -> None:
        found = find_model(str(tiny))
        assert (found.path, found.card, found.entry, found.domain) == (tiny, CARD, None, "")
        assert find_model("photo").domain == "photo"
        assert not found.capabilities.inpaints
        assert found.network().state_dict().keys() == weights.build(CARD).state_dict().keys()

    def test_only_blind_spot_models_take_their_options(self, tiny: Path) -> None:
        find_model("amsnet-fast").require_blind_spot(["--refine"])
        find_model(str(tiny)).require_blind_spot([])
        with pytest.raises(ModelError, match=r"cannot take --refine or --seed(.|\n)*amsnet-fast"):
            find_model(str(tiny)).require_blind_spot(["--refine", "--seed"])
        assert set(blind_spot_models()) == {name for name in KNOWN if name.startswith("amsnet")}

    def test_cards_of_earlier_versions_are_written_again_byte_by_byte(self) -> None:
        """They have neither domain nor gray."""
        values = asdict(CARD)
        del values["domain"], values["gray"]
        assert CARD.metadata() == {"medcli": json.dumps(values, sort_keys=True)}
        assert json.loads(replace(CARD, domain="noise").metadata()["medcli"])["domain"] == "noise"
