"""Claims about the notation of noises: what is written is what is made, and what is made can be written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medcli.errors import RecipeError
from medcli.noise.base import Noise
from medcli.noise.bundled import bundled
from medcli.noise.camera import Camera
from medcli.noise.chain import Chain, clipped
from medcli.noise.gaussian import Gaussian
from medcli.noise.local_variance import LocalVariance
from medcli.noise.notation import parse, parse_pool, read_pool
from medcli.noise.poisson import Poisson
from medcli.noise.pool import Pool
from medcli.noise.rescale import FILTERS, Rescale
from medcli.noise.salt_pepper import SaltPepper
from medcli.noise.sensor import Read, Sensor
from medcli.noise.speckle import Speckle
from medcli.noise.storage import Clip, Round
from medcli.registry import NOISES

WRITTEN = {
    "gaussian:25": Gaussian(25, 25),
    "gaussian:5-50": Gaussian(5, 50),
    "poisson:30": Poisson(30, 30),
    "salt-pepper:0.1": SaltPepper(0.1, 0.1),
    "salt-pepper:0.05-0.15,salt=0.3": SaltPepper(0.05, 0.15, 0.3),
    "local-variance": LocalVariance(),
    "read:2-20,tail=5-7.5": Read(2, 20, (5, 7.5)),
    "rescale:3,filter=hamming": Rescale(3, "hamming"),
    "sensor:mild,space=linear": Sensor("mild", "linear"),
    "sensor:space=linear": Sensor(space="linear"),
    "camera": Camera(),
    "camera:3e-05-0.001,quality=50-90": Camera((3e-5, 1e-3), quality=(50, 90)),
    "gaussian:25+speckle:25": Chain((Gaussian(25, 25), Speckle(25, 25))),
    "gaussian:25+clip+round": Chain((Gaussian(25, 25), Clip(), Round())),
    "round:16": Round(16),
}


@pytest.mark.parametrize(("text", "noise"), WRITTEN.items(), ids=WRITTEN)
def test_there_and_back(text: str, noise: Noise) -> None:
    assert parse(text) == noise
    assert str(noise) == text


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (" gaussian:25 + clip ", "gaussian:25+clip"),
        ("gaussian", "gaussian:0-55"),
        ("gaussian:low=5,high=9", "gaussian:5-9"),
        ("poisson:1e+3+clip", "poisson:1000+clip"),
        ("poisson:1E3", "poisson:1000"),
        ("sensor:preset=mild", "sensor:mild"),
    ],
)
def test_other_ways_to_write_the_same(text: str, same: str) -> None:
    assert str(parse(text)) == same


@pytest.mark.parametrize("name", sorted(set(NOISES) - {"power", "rescale"}))
def test_every_noise_of_the_table_works_by_its_bare_name(name: str) -> None:
    assert str(parse(name)).startswith(name)
    assert parse(str(parse(name))) == parse(name)


@pytest.mark.parametrize("text", ["noise", "corruption", "sensor:mild", "sensor:mild,space=linear", "noise+clip"])
def test_what_was_drawn_can_be_drawn_again(text: str) -> None:
    clean = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        drawn = parse(text).sample_parameters(torch.Generator().manual_seed(seed))
        images = [noise(clean, torch.Generator().manual_seed(7)) for noise in (drawn, parse(str(drawn)))]
        assert torch.equal(*images), str(drawn)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gausian:25", "Did you mean 'gaussian'"),
        ("corruptions", "Did you mean 'corruption'"),
        ("gaussian:loud", "'loud' is not a valid level for 'gaussian'"),
        ("gaussian:25:50", "'25:50' is not a valid level"),
        ("gaussian:50-5", "Write 5-50"),
        ("gaussian:-5", "-5 is not a valid level for 'gaussian'"),
        ("salt-pepper:5", "start at 0 and end at 1"),
        ("salt-pepper:0.1,slat=0.3", "Did you mean 'salt'"),
        ("salt-pepper:0.1,salt=0.3-0.5", "takes one number, not the range 0.3-0.5"),
        ("local-variance:25", "'local-variance' has no argument '25'"),
        ("gaussian:25,30", "has no argument '30'"),
        ("rescale", "'rescale' needs a level"),
        ("rescale:2.5", "takes whole numbers"),
        ("rescale:2,filter=lancsoz", "Did you mean 'lanczos'"),
        ("gaussian:25+", "has nothing next to a '\\+'"),
        ("", "has nothing"),
        ("noise:25", "no noise or pool called 'noise'"),
    ],
)
def test_error_messages(text: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        parse(text)


class TestPools:
    @pytest.mark.parametrize("name", sorted(bundled()))
    def test_bundled_pools_give_images(self, name: str) -> None:
        pool = parse_pool(name)
        assert isinstance(pool, Pool)
        assert str(pool) == name
        for weight, noise in pool.noises:
            assert weight > 0
            assert noise(torch.rand(3, 16, 16), torch.Generator().manual_seed(0)).shape == (3, 16, 16)

    def test_the_pool_of_med_has_its_five_noises(self) -> None:
        shares = {str(noise).partition(":")[0]: weight for weight, noise in parse_pool("noise").noises}
        assert shares.pop("gaussian") == 0.75
        assert shares == dict.fromkeys(["local-variance", "poisson", "salt-pepper", "speckle"], 0.0625)

    def test_the_corruption_pool_has_every_scale_filter_and_share_beside_noise(self) -> None:
        noises = {str(noise) for _, noise in parse_pool("corruption").noises}
        scales = {str(Rescale(factor, name)) for factor in (2, 3, 4) for name in FILTERS}
        drops = {"drop:0.5", "drop:0.7", "drop:0.9", "drop:0.005-0.5", "drop:0.01-0.3,size=1-10"}
        assert noises == scales | drops | {"gaussian:0-25"}

    def test_pools_can_be_clipped(self) -> None:
        assert str(clipped(parse("noise"))) == "noise+clip"

    def test_a_pool_without_a_name_spells_itself(self) -> None:
        assert str(Pool([(0.4, Gaussian()), (0.6, Camera())])) == "0.4*gaussian:0-55|0.6*camera"

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text("gaussian:25+clip: 3\nnoise: 1\n", encoding="utf-8")
        pool = parse(str(path))
        assert isinstance(pool, Pool)
        assert pool == read_pool(path) == parse_pool(str(path))
        assert [(weight, str(noise)) for weight, noise in pool.noises] == [(3.0, "gaussian:25+clip"), (1.0, "noise")]
        assert str(pool) == str(path)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "is not a pool of noises"),
            ("- gaussian:25", "is not a pool of noises"),
            ("gaussian:25: loud", "the weight of 'gaussian:25' is 'loud'"),
            ("gausian:25: 1", "Did you mean 'gaussian'"),
            ("gaussian:25: -1", "cannot have the weights"),
            ("{", "is not YAML"),
            ("gaussian:25: 2020-13-45", "is not YAML"),
            ("gaussian:25: .inf", "cannot have the weights"),
        ],
    )
    def test_errors_of_pool_files(self, tmp_path: Path, text: str, problem: str) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError, match=problem):
            parse(str(path))

    def test_errors_about_names(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="cannot be read: No such file"):
            parse(str(tmp_path / "absent.yaml"))
        with pytest.raises(RecipeError, match="Did you mean 'noise'"):
            parse_pool("nosie")
