"""`med models` as a user meets it, with a catalogue of one bundled model and one on a Hub that is a folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from rich.filesize import decimal

from medcli.cli import med, options
from medcli.cli.models import COMMANDS
from medcli.errors import MedcliError, ModelError, OutputError, SomeFailed
from medcli.zoo import catalog, weights
from medcli.zoo.fetch import HubFile
from medcli.zoo.model import find_model

CONFIG = {"channels": 1, "width": 2, "depth": 3, "batch_norm": False}
CARD = weights.Card(id="tiny", architecture="dncnn", config=CONFIG)
OURS = ("list", "info", "pull", "verify", "path", "rm", "bundle", "card")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(med, ["models", *map(str, arguments)], prog_name="med")


def message_lines(*arguments: object, kind: type[MedcliError] = ModelError) -> str:
    """What a command that must fail says; its exit code is that of the error."""
    result = run(*arguments)
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


class Hub:
    """A Hub in a folder, and its cache in another."""

    def __init__(self, folder: Path) -> None:
        self.shelf, self.cache = folder / "hub", folder / "cache"
        self.requests = 0
        for path in (self.shelf, self.cache):
            path.mkdir()

    def cached(self, file: HubFile) -> Path | None:
        path = self.cache / file.file
        return path if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256 else None

    def is_there(self, file: HubFile) -> bool:
        return (self.cache / file.file).exists()

    def fetch(self, file: HubFile, *, name: str, say: Callable[[str], None]) -> Path:
        if found := self.cached(file):
            return found
        self.requests += 1
        if not (self.shelf / file.file).exists():
            raise ModelError(f"'{name}' cannot be fetched.", "Try again.")
        say(f"{name}: {file.bytes} bytes from {file.repo} to {self.cache}")
        return Path(shutil.copy(self.shelf / file.file, self.cache / file.file))

    def remove(self, file: HubFile) -> int:
        found = self.cache / file.file
        freed = found.stat().st_size if found.exists() else 0
        found.unlink(missing_ok=True)
        return freed


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    torch.manual_seed(0)
    weights.save(hub.shelf / "model.safetensors", weights.build(CARD), CARD)
    monkeypatch.setenv("MED_HOME", str(tmp_path / "home"))
    for name in ("cached", "is_there", "fetch", "remove"):
        monkeypatch.setattr(f"medcli.zoo.fetch.{name}", getattr(hub, name))
    photo, far = (catalog.as_row(catalog.entries()[name]) for name in ("photo", "nafnet-sidd-32"))
    data = (hub.shelf / "model.safetensors").read_bytes()
    tiny = far | {"id": "tiny", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "config": CARD.config}
    tiny |= {"architecture": "dncnn", "domain": "gray", "channels": 1}
    tiny["source"] |= {"file": "model.safetensors"}
    del tiny["naming"]
    write_catalogue(tmp_path / "models.yaml", [photo, tiny])
    monkeypatch.setattr(catalog, "catalog_path", lambda: tmp_path / "models.yaml")
    return hub


def write_catalogue(path: Path, rows: list[dict[str, Any]]) -> None:
    plain = json.loads(json.dumps(rows))  # no object twice, which YAML would make an alias of
    path.write_text(yaml.safe_dump({"models": plain}, sort_keys=False), encoding="utf-8")


class TestGroup:
    def test_help_lists_every_command(self) -> None:
        output = run("--help").output
        assert all(f"  {name} " in output for name in COMMANDS)

    def test_a_mistyped_command_gets_the_nearest(self) -> None:
        result = run("lisst")
        assert (result.exit_code, "Did you mean 'list'" in result.output) == (2, True)

    @pytest.mark.parametrize("name", OURS)
    def test_every_command_explains_itself(self, name: str) -> None:
        assert run(name, "--help").output.startswith(f"Usage: med models {name} [OPTIONS]")

    def test_list_info_and_completion_stay_light(self) -> None:
        code = (
            "import sys, click; from medcli.cli import med, options\n"
            "for words in (['list'], ['list', '--json'], ['info', 'photo'], ['info', 'photo', '--json']):\n"
            "    med.main(['models', *words], prog_name='med', standalone_mode=False)\n"
            "options.complete_id(click.Context(med), click.Argument(['x']), '')\n"
            "print('HEAVY', {'torch', 'numpy', 'rich.console', 'httpx', 'httpx2', 'safetensors'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("HEAVY set()\n")

    @pytest.mark.skipif(os.name == "nt", reason="the time of child processes is not known there")
    def test_the_list_is_there_at_once(self) -> None:
        before = os.times()
        subprocess.run([sys.executable, "-m", "medcli", "models", "list"], capture_output=True, check=True)
        after = os.times()  # processor time, which a busy machine does not stretch
        assert after.children_user + after.children_system - before.children_user - before.children_system < 0.3


class TestListAndInfo:
    def test_one_line_per_model(self, hub: Hub) -> None:
        heading, photo, tiny = run("list").output.splitlines()
        assert heading.split() == ["model", "title", "domain", "size", "where", "licence"]
        assert photo.split()[-5:] == ["photo", "7.2", "MB", "bundled", "CC-BY-SA-4.0"]
        assert tiny.split()[-5:] == ["gray", "978", "bytes", "hub", "MIT"]
        assert hub.requests == 0

    def test_what_was_fetched_is_cached(self, hub: Hub) -> None:
        run("pull", "tiny")
        assert run("list", "--domain", "gray").output.splitlines()[1].split()[-2:] == ["cached", "MIT"]

    def test_json_holds_all_that_is_known(self, hub: Hub) -> None:
        rows = json.loads(run("list", "--json").output)
        assert [(row["id"], row["where"]) for row in rows] == [("photo", "bundled"), ("tiny", "hub")]
        assert rows[0] == json.loads(run("info", "photo", "--json").output)
        assert rows[1]["source"]["revision"] == "9526c38b626f6e8ca0c02e4a282859ac84d240a2"

    def test_a_domain_chooses(self, hub: Hub) -> None:
        assert [row["id"] for row in json.loads(run("list", "--json", "--domain", "gray").output)] == ["tiny"]
        assert json.loads(run("list", "--json", "--domain", "microscopy").output) == []
        assert run("list", "--domain", "grey").exit_code == 2

    def test_an_empty_domain_is_said_to_be_empty(self, hub: Hub) -> None:
        assert "no model for the domain 'microscopy'" in run("list", "--domain", "microscopy").stderr

    def test_a_terminal_gets_a_table(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "dumb")
        med.main(["models", "list"], prog_name="med", standalone_mode=False)
        lines = screen.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert "──" in screen.getvalue()
        assert sum("photo" in line.split()[:1] for line in lines) == 1

    def test_info_says_where_from_and_under_which_licences(self, hub: Hub) -> None:
        output = " ".join(run("info", "tiny").output.split())
        for part in ("hub", "mikestealth/nafnet-models", "MIT (weights)", "(training data)", "not run or measured"):
            assert part in output
        assert "CBSD68 sigma 25" in run("info", "photo").output

    @pytest.mark.parametrize("name", ["info", "path", "verify", "pull", "rm", "card"])
    def test_unknown_names_get_the_nearest(self, name: str, hub: Hub) -> None:
        assert "Did you mean 'photo'" in message_lines(name, "phota")

    def test_sizes_in_words(self) -> None:
        sizes = [replace(catalog.find("photo"), bytes=number).size for number in (None, 512, 99_999, 464_154_961)]
        assert sizes == ["not stated", "512 bytes", "100.0 kB", "464.2 MB"]


class TestPull:
    def test_fetches_once_and_says_so(self, hub: Hub) -> None:
        first, second = run("pull", "tiny"), run("pull", "--all")
        assert f"to {hub.cache}" in first.stderr
        assert f"tiny: ready, {hub.cache / 'model.safetensors'}" in first.stderr
        assert "photo: part of medcli" in second.stderr
        assert (first.exit_code, second.exit_code, hub.requests) == (0, 0, 1)
        assert first.stdout == run("pull", "tiny", "-q").output == ""

    def test_a_name_twice_is_one_model(self, hub: Hub) -> None:
        assert run("pull", "tiny", "tiny").stderr.count("tiny: ready") == 1

    def test_one_that_fails_does_not_stop_the_others(self, hub: Hub) -> None:
        (hub.shelf / "model.safetensors").unlink()
        assert "cannot be fetched" in message_lines("pull", "tiny")
        result = run("pull", "tiny", "photo")
        assert isinstance(result.exception, SomeFailed)
        assert "error: 'tiny' cannot be fetched" in result.stderr
        assert "photo: part of medcli" in result.stderr

    @pytest.mark.parametrize("arguments", [[], ["tiny", "--all"], ["--all", "--from-bundle", "."]])
    def test_says_what_it_wants(self, arguments: list[str], hub: Hub) -> None:
        assert run("pull", *arguments).exit_code == 2


class TestVerify:
    def test_all_that_is_here(self, hub: Hub) -> None:
        result = run("verify")
        assert "photo: checksum ok, test vector matches" in result.output
        assert "tiny" not in result.output
        run("pull", "tiny")
        assert "tiny: checksum ok, loads into its network; there is no test vector" in run("verify", "tiny").output
        assert hub.requests == 1

    def test_a_model_that_is_not_here_is_an_error(self, hub: Hub) -> None:
        result = run("verify", "tiny")
        assert (result.exit_code, hub.requests) == (1, 0)
        assert "error: 'tiny' is not on this machine.\n  Fetch it: med models pull tiny" in result.stderr

    def test_a_cache_that_rots_is_not_passed_over(self, hub: Hub, tmp_path: Path) -> None:
        run("pull", "tiny")
        (hub.cache / "model.safetensors").write_bytes(b"rotten")
        for names in ([], ["tiny"]):
            result = run("verify", *names)
            assert (result.exit_code, hub.requests) == (1, 1)
            assert "'tiny' are corrupt in the Hub's cache.\n  Fetch it again: med models pull tiny" in result.stderr
        assert "corrupt" in message_lines("bundle", tmp_path / "stick")

    def test_an_error_for_every_bad_one(self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
        (tmp_path / "photo.safetensors").write_bytes(b"no weights")
        result = run("verify", "photo", "tiny")
        assert result.exit_code == 1
        assert result.stderr.count("error: ") == 2
        assert "The weights of 'photo' are corrupt" in result.stderr

    def test_other_images_than_then_are_an_error(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        origin = catalog.WEIGHTS
        monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
        shutil.copy(origin / "photo.safetensors", tmp_path)
        assert "There is no test vector" in run("verify", "photo").stderr
        shutil.copy(origin / "gaussian.vector.safetensors", tmp_path / "photo.vector.safetensors")
        result = run("verify", "photo")
        assert (result.exit_code, "'photo' does not reproduce its test vector" in result.stderr) == (1, True)


class TestConverted:
    """A model whose tensors are named as others name them, through the real conversion."""

    @pytest.fixture
    def foreign(self, hub: Hub, tmp_path: Path) -> Path:
        """The catalogue's row of `tiny` stands for a checkpoint of KAIR's from now on; this is where it is cached."""
        state = weights.build(CARD).state_dict()
        names = [f"model.{place}.{part}" for place in (0, 2, 4) for part in ("weight", "bias")]
        weights.write_tensors(hub.shelf / "kair.safetensors", dict(zip(names, state.values(), strict=True)), {})
        rows = [catalog.as_row(entry) for entry in catalog.entries().values()]
        data = (hub.shelf / "kair.safetensors").read_bytes()
        rows[1] |= {"naming": "kair", "bytes": None, "sha256": hashlib.sha256(data).hexdigest()}
        rows[1]["source"] |= {"file": "kair.safetensors"}
        write_catalogue(tmp_path / "models.yaml", rows)
        return hub.cache / "kair.safetensors"

    def test_is_used_in_our_form(self, foreign: Path, hub: Hub) -> None:
        assert run("pull", "tiny").exit_code == 0
        ours = Path(run("path", "tiny").output.strip())
        assert (ours.suffix, ours.parent) == (".safetensors", catalog.converted_folder(catalog.find("tiny")))
        assert weights.load_network(ours)[1] == catalog.find("tiny").card
        assert "loads into its network" in run("verify", "tiny").output
        run("rm", "tiny")
        assert not ours.exists()
        assert not foreign.exists()

    def test_a_spoiled_conversion_is_never_used(self, foreign: Path) -> None:
        run("pull", "tiny")
        ours = Path(run("path", "tiny").output.strip())
        data = ours.read_bytes()
        ours.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert Path(run("path", "tiny").output.strip()).read_bytes() == data
        assert run("verify", "tiny").exit_code == 0

    def test_travels_as_it_was_published(self, foreign: Path, tmp_path: Path) -> None:
        run("pull", "tiny")
        run("bundle", tmp_path / "stick", "tiny")
        assert (tmp_path / "stick" / "tiny.safetensors").read_bytes() == foreign.read_bytes()


class TestPathAndRemove:
    def test_path_never_fetches(self, hub: Hub) -> None:
        assert "not on this machine" in message_lines("path", "tiny")
        run("pull", "tiny")
        assert run("path", "tiny").output == f"{hub.cache / 'model.safetensors'}\n"
        assert run("path", "photo").output == f"{catalog.WEIGHTS / 'photo.safetensors'}\n"
        assert hub.requests == 1

    def test_what_comes_with_medcli_stays(self, hub: Hub) -> None:
        run("pull", "tiny")
        assert "'photo' is part of medcli" in message_lines("rm", "tiny", "photo")
        assert catalog.is_here(catalog.find("tiny"))
        with pytest.raises(ModelError, match="is kept"):
            catalog.remove(catalog.find("photo"))

    def test_what_was_fetched_goes(self, hub: Hub) -> None:
        run("pull", "tiny")
        entry = catalog.find("tiny")
        folder = catalog.converted_folder(entry)
        folder.mkdir(parents=True)
        (folder / "tiny.safetensors").write_bytes(b"12345")
        assert entry.bytes is not None
        assert f"removed, {decimal(entry.bytes + 5)} freed" in run("rm", "tiny").stderr
        assert not catalog.is_here(entry)
        assert not folder.exists()
        assert "tiny: is not on this machine" in run("rm", "tiny").stderr


class TestBundle:
    @pytest.fixture
    def bundle(self, hub: Hub, tmp_path: Path) -> Path:
        """A bundle of both models, and a machine that has neither network nor cache."""
        run("pull", "tiny")
        run("bundle", tmp_path / "stick")
        hub.remove(HubFile("a/b", "model.safetensors", "0" * 40, None, "0" * 64))
        (hub.shelf / "model.safetensors").unlink()
        return tmp_path / "stick"

    def test_holds_weights_vectors_rows_and_sums(self, bundle: Path) -> None:
        names = {path.name for path in bundle.iterdir()}
        held = {"photo.safetensors", "photo.vector.safetensors", "tiny.safetensors"}
        assert names == held | {"SHA256SUMS", "models.yaml"}
        assert catalog.entries(bundle / "models.yaml") == catalog.entries()
        for line in (bundle / "SHA256SUMS").read_text().splitlines():
            digest, _, name = line.partition("  ")
            assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest

    def test_installs_without_a_network(self, bundle: Path, hub: Hub) -> None:
        result = run("pull", "--from-bundle", bundle)
        assert result.exit_code == 0, result.output
        assert f"from {bundle} to {catalog.store()}" in result.stderr
        assert run("path", "tiny").output == f"{catalog.store() / 'tiny.safetensors'}\n"
        assert find_model("tiny").path.read_bytes() == (bundle / "tiny.safetensors").read_bytes()
        assert run("verify", "tiny").exit_code == 0
        assert f"from {bundle}" not in run("pull", "--from-bundle", bundle, "tiny").stderr
        run("rm", "tiny")
        assert not catalog.is_here(catalog.find("tiny"))
        assert hub.requests == 1

    def test_a_spoiled_copy_is_replaced(self, bundle: Path) -> None:
        run("pull", "--from-bundle", bundle)
        place = catalog.store() / "tiny.safetensors"
        place.write_bytes(b"spoiled")
        assert run("pull", "--from-bundle", bundle, "tiny").exit_code == 0
        assert place.read_bytes() == (bundle / "tiny.safetensors").read_bytes()

    @pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
    def test_a_spoiled_bundle_installs_nothing(self, harm: str, bundle: Path) -> None:
        packed = bundle / "tiny.safetensors"
        data = packed.read_bytes()
        packed.write_bytes(data[:-1] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
        if harm == "gone":
            packed.unlink()
        output = message_lines("pull", "--from-bundle", bundle, "tiny")
        assert "Pack or copy the bundle again" in output
        assert list(catalog.store().iterdir()) == []

    def test_only_this_catalogue_is_trusted(self, bundle: Path, tmp_path: Path) -> None:
        rows = yaml.safe_load((bundle / "models.yaml").read_text())["models"]
        write_catalogue(bundle / "models.yaml", [rows[1] | {"sha256": "0" * 64}, rows[1] | {"id": "newer"}])
        assert "differs from that of this version" in message_lines("pull", "--from-bundle", bundle, "tiny")
        assert "has no model 'newer'" in message_lines("pull", "--from-bundle", bundle, "newer")
        (bundle / "models.yaml").unlink()
        assert "is not a bundle of models" in message_lines("pull", "--from-bundle", bundle)

    def test_what_is_not_here_is_not_packed(self, hub: Hub, tmp_path: Path) -> None:
        assert "med models pull tiny" in message_lines("bundle", tmp_path / "stick", "tiny")
        assert not (tmp_path / "stick").exists()

    def test_a_folder_with_something_in_it_is_left_alone(self, hub: Hub, tmp_path: Path) -> None:
        assert "is not empty" in message_lines("bundle", tmp_path, "photo", kind=OutputError)
        (tmp_path / "file").touch()
        assert run("bundle", tmp_path / "file", "photo").exit_code == 2


def test_a_page_is_written(hub: Hub) -> None:
    output = run("card", "photo").output
    assert output.startswith("---\n")
    assert "# photo: Blind denoising of photographs" in output


class TestCompletion:
    def completions(self, *words: str, incomplete: str = "") -> list[str]:
        found = ShellComplete(med, {}, "med", "_MED_COMPLETE").get_completions(["models", *words], incomplete)
        return [item.value for item in found]

    def test_names_for_every_command(self, hub: Hub) -> None:
        for name in ("info", "path", "card", "pull", "verify"):
            assert self.completions(name) == ["photo", "tiny"]
        assert self.completions("info", incomplete="ph") == ["photo"]
        assert self.completions("pull", "tiny") == ["photo"]
        assert self.completions("bundle", "stick") == ["photo", "tiny"]

    def test_only_what_can_go_is_offered_to_rm(self, hub: Hub) -> None:
        assert self.completions("rm") == []
        run("pull", "tiny")
        assert self.completions("rm") == ["tiny"]

    def test_a_model_may_be_a_file(self, hub: Hub) -> None:
        parameter, context = click.Option(["-m", "--model"]), click.Context(med)
        named = options.complete_model(context, parameter, "ti")
        assert [(item.value, item.type, item.help) for item in named] == [("tiny", "plain", catalog.find("tiny").title)]
        assert [item.type for item in options.complete_model(context, parameter, "./ti")] == ["file"]
