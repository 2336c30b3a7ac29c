"""Weight files and catalogues that were spoiled at random: an error each, or no harm done. Seeds are fixed."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from medcli.errors import ModelError
from medcli.files.checksum import checksums
from medcli.zoo import catalog, weights
from medcli.zoo.model import find_model

CONFIG = {"channels": 1, "width": 2, "depth": 3, "batch_norm": False}
CARD = weights.Card(id="tiny", architecture="dncnn", config=CONFIG)
HEADERS, CATALOGUED, CATALOGUES = 1200, 800, 500
ROOM = 200_000  # kilobytes that a spoiled file may cost at most
NUMBERS = (b"0", b"-1", b"9999999999", b"1e300", b"NaN", b"true", b"null", b'"x"', b"[]", b"[[[[[[[[", b"{}")
VALUES = ("", "null", "-1", "0", "1e9", ".inf", "!!binary aGk=", "[[[[", "{", "*a", "&a x", "'", '"\\UFFFFFFFF"', "? x")
Spoil = Callable[[random.Random, bytes], bytes]


def replaced_byte(draw: random.Random, data: bytes) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]


def flipped_bit(draw: random.Random, data: bytes) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


def cut_off(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def cut_out(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 20) :]


def doubled(draw: random.Random, data: bytes) -> bytes:
    start, stop = sorted(draw.randrange(len(data)) for _ in range(2))
    return data[:stop] + data[start:]


def junk(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + draw.randbytes(draw.randrange(1, 9)) + data[start:]


ANYWHERE: tuple[Spoil, ...] = (replaced_byte, flipped_bit, cut_off, cut_out, doubled, junk)


def lying_header(draw: random.Random, data: bytes) -> bytes:
    """A header of another meaning whose length is right: one of its numbers or names is something else."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    found = draw.choice(list(re.finditer(rb"-?\d+|true|false|\"F16\"", header)))
    header = header[: found.start()] + draw.choice(NUMBERS) + header[found.end() :]
    return struct.pack("<Q", len(header)) + header + body


def lying_length(draw: random.Random, data: bytes) -> bytes:
    return struct.pack("<Q", draw.choice((0, 1, 2**31, 2**63, 2**64 - 1, draw.randrange(2000)))) + data[8:]


def spoiled(data: bytes, ways: tuple[Spoil, ...], count: int, until: int | None = None) -> Iterator[bytes]:
    """`count` spoiled copies; only what lies before `until` is touched, as far as a way can be reported where."""
    draw = random.Random(0)
    for number in range(count):
        way = ways[number % len(ways)]
        whole = way in (lying_header, lying_length, cut_off)
        yield way(draw, data) if whole or until is None else way(draw, data[:until]) + data[until:]


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="memory is not measured on this system")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    weights.save(path, weights.build(CARD), CARD)
    return path


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_spoiled_headers_give_an_error_or_the_same_weights(tiny: Path) -> None:
    data = tiny.read_bytes()
    expected = weights.load_network(tiny)[0].state_dict()
    (length,) = struct.unpack("<Q", data[:8])
    loaded = 0
    for changed in spoiled(data, (*ANYWHERE, lying_header, lying_header, lying_length), HEADERS, until=8 + length):
        tiny.write_bytes(changed)
        try:
            network, card = weights.load_network(tiny)
        except ModelError:
            continue
        loaded += 1
        assert isinstance(card, weights.Card)
        state = network.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
    assert 0 < loaded < HEADERS / 2  # harmless changes exist, such as another letter in a title


def test_spoiled_weights_of_the_catalogue_are_never_used(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.read_bytes()
    size, sha256, _ = checksums(tiny)
    entry = replace(catalog.entries()["photo"], id="tiny", bytes=size, sha256=sha256)
    monkeypatch.setattr(catalog, "WEIGHTS", tiny.parent)
    for number, changed in enumerate(spoiled(data, ANYWHERE, CATALOGUED)):
        spoilt = replace(entry, file=f"{number}.safetensors")
        monkeypatch.setattr(catalog, "entries", lambda spoilt=spoilt: {"tiny": spoilt})
        spoilt.path.write_bytes(changed)
        if changed == data:
            assert find_model("tiny").path == spoilt.path
            continue
        with pytest.raises(ModelError, match="corrupt"):
            find_model("tiny")
        spoilt.path.unlink()


def with_another_value(draw: random.Random, data: bytes) -> bytes:
    lines = data.decode().split("\n")
    place = draw.randrange(len(lines))
    key, colon, _ = lines[place].partition(": ")
    lines[place] = key + (colon or ": ") + draw.choice(VALUES)
    return "\n".join(lines).encode()


def test_spoiled_catalogues_give_an_error_or_rows_that_hold(tmp_path: Path) -> None:
    known = catalog.entries()
    rows = [catalog.as_row(known[name]) for name in ("photo", "nafnet-sidd-32")]
    data = yaml.safe_dump({"models": rows}, sort_keys=False, width=1000).encode()
    path = tmp_path / "models.yaml"
    errors = held = 0
    for changed in spoiled(data, (*ANYWHERE, with_another_value, with_another_value), CATALOGUES):
        path.write_bytes(changed)
        try:
            found = catalog.entries(path)
        except ModelError as error:
            errors += error.problem.startswith(str(path)) and bool(error.hint)
            continue
        again = [catalog.as_row(entry) for entry in found.values()]
        path.write_text(yaml.safe_dump({"models": again}, sort_keys=False), encoding="utf-8")
        assert catalog.entries(path) == found
        held += 1
    assert held > 0
    assert errors == CATALOGUES - held


@pytest.mark.parametrize(
    "config",
    [
        {"width": 10**9},
        {"depth": 10**9},
        {"width": 60_000, "depth": 3},
        {"width": float("nan")},
        {"width": [[]]},
        {"width": -5},
        {"width": 10**400},
        {"channels": {"a": [10**9] * 9}},
        {"depth": 0},
    ],
)
def test_a_card_that_describes_a_giant_costs_nothing(config: dict[str, object], tiny: Path) -> None:
    giant = replace(CARD, config=CONFIG | config)
    weights.save(tiny, weights.build(CARD), giant)
    with pytest.raises(ModelError):
        weights.load_network(tiny)


@pytest.mark.parametrize(
    "change",
    [{"id": 3}, {"config": []}, {"training_data": "x"}, {"training_data": [3]}, {"half_safe": 1}, {"title": None}],
)
def test_a_card_of_wrong_types_is_an_error(change: dict[str, object], tiny: Path) -> None:
    weights.save(tiny, weights.build(CARD), replace(CARD, **change))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="not a weight file of medcli"):
        weights.read_card(tiny)


def test_tensors_that_a_network_cannot_have_are_refused(tiny: Path) -> None:
    import json
    from dataclasses import asdict

    network, metadata = weights.build(CARD), {weights.METADATA_KEY: json.dumps(asdict(CARD))}
    state = network.state_dict()
    name = next(iter(state))
    for other in (state | {"../../x": torch.zeros(1)}, {key: state[key] for key in state if key != name}, {}):
        weights.write_tensors(tiny, other, metadata)
        with pytest.raises(ModelError, match="do not fit"):
            weights.load_network(tiny)
    for odd in (torch.bool, torch.complex64, torch.float8_e4m3fn):
        weights.write_tensors(tiny, state | {name: state[name].to(odd)}, metadata)
        with pytest.raises(ModelError, match="of type"):
            weights.load_network(tiny)


def test_a_header_nested_without_end_is_an_error(tiny: Path) -> None:
    for text in (b"[" * 200_000, b'{"__metadata__":' + b'{"a":' * 50_000):
        tiny.write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(ModelError):
            weights.load_network(tiny)
