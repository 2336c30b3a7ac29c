"""MeD beside N2C, N2N, N2S and R2R: one network, the same images, scenes per step, steps and seeds.

python docs/benchmarks/med_table.py --data clean/ --test cbsd68/ --pairs CC=cc15/ --steps 20000 --seeds 0,1 --out runs/

Trains OUT/METHOD-SEED for each method and seed, then prints three Markdown tables: the columns of the paper's Table 1,
those of its Table 3, and the pairs that were recorded; DIR of --pairs holds `noisy` and `clean`. What is trained or
measured already is not done again, and a run that was interrupted goes on. Noise is made with seed 0 and clipped after
every component, pairs are read in 8 bits. Figures are PSNR in dB and SSIM (7x7 window), means over images and then
over seeds, with the standard deviation of PSNR over these. The averaged weights of the last step are measured: none was
chosen by clean images.

Two of the paper's noises are mended, as its own formulas leave next to no noise, or nothing but noise: Poisson has 255
photons at white, and salt and pepper hits 5 % of the elements, of which 30 or 50 % are salt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click

import medcli
from medcli.batch.evaluate.run import IDENTITY, EvaluatedMethod, evaluate
from medcli.batch.pairs import FilePairs, Pair, SyntheticPairsFromFiles, thinned
from medcli.data.folders import images_in, matched
from medcli.files.atomic import atomic_write
from medcli.metrics import psnr, ssim7
from medcli.noise.notation import bundled, parse
from medcli.train.loop import Limits
from medcli.train.recipe import Recipe, load
from medcli.train.run import TrainOptions, train

METHODS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "n2c": ("supervised", {}),
    "n2n": ("n2n", {}),
    "n2s": ("n2s", {}),
    "r2r": ("r2r", {}),
    "med": ("med", {}),
    "med3": ("med", {"views": 3}),
    "med4": ("med", {"views": 4}),
}
SIGMAS = tuple(f"gaussian:{sigma}" for sigma in (15, 25, 50, 75))
TABLE_1: Mapping[str, Sequence[str]] = {f"sigma {noise.partition(':')[2]}": (noise,) for noise in SIGMAS}
TABLE_3: Mapping[str, Sequence[str]] = {
    "Gaussian, sigma 15 to 75": SIGMAS,
    "local variance": ("local-variance",),
    "Poisson": ("poisson:255",),
    "speckle, 25 and 50": ("speckle:25", "speckle:50"),
    "salt and pepper": ("salt-pepper:0.05,salt=0.3", "salt-pepper:0.05"),
    "Gaussian 25, speckle 25": ("gaussian:25+speckle:25",),
    "Gaussian 50, speckle 25": ("gaussian:50+speckle:25",),
    "local variance, Poisson": ("local-variance+poisson:255",),
    "Poisson, speckle 25": ("poisson:255+speckle:25",),
}
SETTLED = (
    "method",
    "options",
    "loss",
    "architecture",
    "config",
    "steps",
    "batch",
    "patch",
    "noises",
    "seed",
)  # what a finished run must agree in
Figures = Mapping[str, tuple[float, float]]  # test -> PSNR, SSIM


@dataclass(frozen=True)
class Tests:
    """What every model is measured on: pairs of images by name, made noisy or recorded."""

    folder: Path
    recorded: Mapping[str, Path]
    limit: int | None

    def names(self) -> list[str]:
        made = [noise for table in (TABLE_1, TABLE_3) for column in table.values() for noise in column]
        return list(dict.fromkeys([*made, *self.recorded]))

    def key(self, name: str) -> str:
        """All that says which pairs these are."""
        return f"{name}, {(self.recorded.get(name) or self.folder).resolve()}, limit {self.limit}"

    def pairs(self, name: str) -> Iterable[Pair]:
        if name in self.recorded:
            noisy, clean = (self.recorded[name] / side for side in ("noisy", "clean"))
            return FilePairs(noisy, clean, [(a, b) for a, b in thinned(matched(noisy, clean), self.limit)])
        return SyntheticPairsFromFiles(self.folder, thinned(images_in(self.folder), self.limit), parse(name), clip=True)


def trained(recipe: Recipe, options: TrainOptions) -> Path:
    """The weights of the run, which is made, or goes on, where they are not there yet."""
    path, frozen = options.output / f"{recipe.id}.safetensors", options.output / "recipe.yaml"
    if frozen.exists():
        former = load(str(frozen))
        config = {key: value for key, value in former.config.items() if key in recipe.config}  # gray adds its channels
        former = replace(former, config=config)
        if odd := [name for name in SETTLED if getattr(former, name) != getattr(recipe, name)]:
            raise click.UsageError(f"{options.output} was trained with another {', '.join(odd)}: choose another --out.")
    return path if path.exists() else train(recipe, options, lambda line: None, lambda text: click.echo(text, err=True))


def measured(path: Path, device: str, tests: Tests, known: Path) -> dict[str, Figures]:
    """Row -> figures, of the noisy input and of the model; `known` remembers them from run to run."""
    rows: dict[str, dict[str, tuple[float, float]]] = {IDENTITY.name: {}, "model": {}}
    rows |= json.loads(known.read_text()) if known.exists() else {}
    wanted = [name for name in tests.names() if tests.key(name) not in rows["model"]]
    denoiser = medcli.load(path, device=device, precision="fp32")
    for name in wanted:
        result = evaluate(tests.pairs(name), [EvaluatedMethod("model", denoiser)], {"psnr": psnr, "ssim": ssim7})
        for row, figures in rows.items():
            scores = [score.values for score in result.scores if score.method == row]
            figures[tests.key(name)] = fmean(each["psnr"] for each in scores), fmean(each["ssim"] for each in scores)
        with atomic_write(known) as file:
            file.write(json.dumps(rows, indent=1).encode())
        click.echo(f"{path.stem}: {name} {rows['model'][tests.key(name)][0]:.2f} dB", err=True)
    return {row: {name: figures[tests.key(name)] for name in tests.names()} for row, figures in rows.items()}


def table(columns: Mapping[str, Sequence[str]], rows: Mapping[str, Sequence[Figures]]) -> str:
    """rows: name -> the figures of each seed. A column is the mean over its tests."""
    lines = [f"| PSNR / SSIM | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, seeds in rows.items():
        cells = [
            [[fmean(run[test][i] for test in column) for run in seeds] for i in (0, 1)] for column in columns.values()
        ]
        lines.append(f"| {name} | " + " | ".join(f"{_mean(ratio)} / {fmean(like):.4f}" for ratio, like in cells) + " |")
    return "\n".join(lines)


def _mean(seeds: Sequence[float]) -> str:
    return f"{fmean(seeds):.2f}" + (f" ± {stdev(seeds):.2f}" if len(seeds) > 1 else "")


def _pairs(given: Sequence[str]) -> dict[str, Path]:
    found = {}
    for each in given:
        name, is_there, folder = each.partition("=")
        if not is_there or not Path(folder, "noisy").is_dir() or not Path(folder, "clean").is_dir():
            raise click.BadParameter(f"'{each}' is not NAME=DIR, with folders 'noisy' and 'clean' in DIR.")
        found[name] = Path(folder)
    return found


@click.command(help=__doc__)
@click.option(
    "--data", required=True, multiple=True, type=click.Path(path_type=Path, exists=True), help="Clean images."
)
@click.option("--test", required=True, type=click.Path(path_type=Path, exists=True), help="Clean images to measure on.")
@click.option("--pairs", multiple=True, metavar="NAME=DIR", help="Recorded pairs; may be given again.")
@click.option("--noise", default="noise", show_default=True, help="A pool, or one noise such as gaussian:25.")
@click.option(
    "--methods", default="n2c,n2n,n2s,r2r,med", show_default=True, help="med3 and med4 see three and four views."
)
@click.option("--loss", default="", help="Of every method; its own unless given.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--steps", default=20_000, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Scenes per step.")
@click.option("--patch", default=64, show_default=True)
@click.option("--arch", default="split", show_default=True, help="split or swin.")
@click.option("--config", default="{}", help="Arguments of the network, as JSON.")
@click.option("--limit", type=int, help="Images of each test, spread evenly.")
@click.option("--device", default="auto", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(methods: str, seeds: str, pairs: Sequence[str], noise: str, config: str, out: Path, **given: Any) -> None:
    if unknown := [name for name in methods.split(",") if name not in METHODS]:
        raise click.UsageError(f"No method is called {', '.join(unknown)}. Known: {', '.join(METHODS)}.")
    tests = Tests(given["test"], _pairs(pairs), given["limit"])
    rows: dict[str, list[Figures]] = {"noisy input": []}
    for name in methods.split(","):
        for seed in map(int, seeds.split(",")):
            folder = out / f"{name}-{seed}"
            recipe = Recipe(
                id=folder.name,
                title=f"{name}, seed {seed}",
                steps=given["steps"],
                noises=_notations(noise),
                method=METHODS[name][0],
                options=METHODS[name][1],
                loss=given["loss"],
                architecture=given["arch"],
                config=json.loads(config),
                patch=given["patch"],
                batch=given["batch"],
                held_out=0.0,
                seed=seed,
            )
            limits = Limits(report_every=1000, save_every=1000)
            options = TrainOptions(folder, given["data"], device=given["device"], resume=True, limits=limits)
            found = measured(trained(recipe, options), given["device"], tests, folder / "scores.json")
            rows["noisy input"] = [found[IDENTITY.name]]
            rows.setdefault(name, []).append(found["model"])
    recorded = {name: (name,) for name in tests.recorded}
    for columns in filter(None, (TABLE_1, TABLE_3, recorded)):
        print(table(columns, rows), end="\n\n")


def _notations(noise: str) -> dict[str, float]:
    """Notation to weight: a pool opened up."""
    return dict(bundled()[noise]) if noise in bundled() else {str(parse(noise)): 1.0}


if __name__ == "__main__":
    main()
