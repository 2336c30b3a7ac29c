"""Tables of names and the classes behind them, which are imported only when a name is resolved."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from medcli.errors import MedcliError

ARCHITECTURES: Mapping[str, str] = {
    "deamnet": "medcli.archs.deamnet:DeamNet",
    "dncnn": "medcli.archs.dncnn:DnCNN",
    "inpaint": "medcli.archs.split:InpaintUNet",
    "lir": "medcli.archs.lir:LIRNet",
    "ludvae": "medcli.archs.ludvae:LUDVAE",
    "nafnet": "medcli.archs.nafnet:NAFNet",
    "nafnet-baseline": "medcli.archs.baseline:Baseline",
    "noise2vst": "medcli.archs.noise2vst:Transformed",
    "plainunet": "medcli.archs.plainunet:PlainUNet",
    "restormer": "medcli.archs.restormer:Restormer",
    "self2self": "medcli.archs.self2self:Self2SelfNetwork",
    "split": "medcli.archs.split:SplitUNet",
    "swin": "medcli.archs.swin:SwinTx",
    "unet": "medcli.archs.unet:ResidualUNet",
}

GRAPHS: Mapping[str, str] = {  # of architectures that run without PyTorch too; the others need it
    "dncnn": "medcli.archs.graphs.dncnn",
    "plainunet": "medcli.archs.graphs.plainunet",
    "split": "medcli.archs.graphs.split",
    "unet": "medcli.archs.graphs.unet",
}

METHODS: Mapping[str, str] = {
    "amsnet": "medcli.methods.amsnet:AMSNet",
    "lir": "medcli.methods.lir:LIR",
    "ludvae": "medcli.methods.ludvae:UnpairedNoise",
    "med": "medcli.methods.med:MeD",
    "n2n": "medcli.methods.n2n:Noise2Noise",
    "noise2vst": "medcli.methods.noise2vst:Noise2VST",
    "n2s": "medcli.methods.n2s:Noise2Self",
    "nvt": "medcli.methods.nvt:NVT",
    "r2r": "medcli.methods.r2r:Recorrupted",
    "self2self": "medcli.methods.self2self:Self2Self",
    "supervised": "medcli.methods.supervised:Supervised",
}

DEFAULT_METHOD = "supervised"
POOL_METHOD = "med"  # for clean images and a pool of noises
NOISE_MODEL_RECIPE = "ludvae"  # trains a noise model on the user's images

NOISES: Mapping[str, str] = {
    "camera": "medcli.noise.camera:Camera",
    "cast": "medcli.noise.sensor:Cast",
    "clip": "medcli.noise.storage:Clip",
    "column": "medcli.noise.sensor:ColumnNoise",
    "drop": "medcli.noise.drop:Drop",
    "gaussian": "medcli.noise.gaussian:Gaussian",
    "grain": "medcli.noise.grain:Grain",
    "local-variance": "medcli.noise.local_variance:LocalVariance",
    "photons": "medcli.noise.photons:Photons",
    "poisson": "medcli.noise.poisson:Poisson",
    "poisson-255fold": "medcli.noise.poisson:Poisson255Fold",
    "power": "medcli.noise.sensor:Power",
    "quantisation": "medcli.noise.sensor:Quantisation",
    "read": "medcli.noise.sensor:Read",
    "rescale": "medcli.noise.rescale:Rescale",
    "round": "medcli.noise.storage:Round",
    "row": "medcli.noise.sensor:RowNoise",
    "salt-pepper": "medcli.noise.salt_pepper:SaltPepper",
    "sensor": "medcli.noise.sensor:Sensor",
    "speckle": "medcli.noise.speckle:Speckle",
}

OPTIMIZERS: Mapping[str, str] = {
    "adam": "torch.optim:Adam",
    "adamw": "torch.optim:AdamW",
    "muon": "medcli.train.muon:Muon",
}

STRATEGIES: Mapping[str, str] = {
    "plain": "medcli.engine.strategies:Plain",
    "flips": "medcli.engine.strategies:Flips",
    "masks": "medcli.engine.blind_spot:ComplementaryMasks",
    "bernoulli": "medcli.engine.bernoulli:Bernoulli",
    "vst": "medcli.engine.stabilised:Stabilised",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, if any is similar, and the list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return (f"Did you mean '{close[0]}'? " if close else "") + f"Known: {', '.join(names)}."


def resolve(table: Mapping[str, str], name: str, *, kind: str, error: type[MedcliError]) -> Any:
    """The object behind `name` in `table`; raises `error` with the closest entry for an unknown name."""
    if name not in table:
        raise error(f"There is no {kind} called '{name}'.", nearest(name, table))
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def key_of(table: Mapping[str, str], kind: type) -> str:
    """The name of a class in `table`, or of the class itself where it has none."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, known in table.items() if known == path), kind.__qualname__)
