"""Phantoms, networks with a known answer, and the one way the tests run a bundle's config."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

ROOT = Path(__file__).parent.parent
INFERENCE = ROOT / "bundles" / "rdst" / "configs" / "inference.json"


class Interpolate(nn.Module):
    """A network that magnifies linearly, edges shared: a ramp stays the same ramp, but for half a pixel at the rim."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


class InterpolateAnyScale(nn.Module):
    """The same at any factor, one for each axis; on a grid of exact spacing too, around the centre of the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.any_scale, self.size_multiple, self.in_channels = True, 1, 1

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def upscale(self, features: torch.Tensor, scale: list, size: list, exact: bool = False) -> torch.Tensor:
        for axis, (factor, new) in enumerate(zip(scale, size, strict=True), 2):
            old = features.shape[axis]
            step = 1 / factor if exact else old / new
            places = (torch.arange(new, dtype=torch.float64) - (new - 1) / 2) * step + (old - 1) / 2
            taps = (1 - (torch.arange(old) - places.clamp(0, old - 1)[:, None]).abs()).clamp(min=0)
            features = (features.movedim(axis, -1).double() @ taps.T).movedim(-1, axis)
        return features.float()

    def forward(self, x: torch.Tensor, scale: list, size: list, exact: bool = False) -> torch.Tensor:
        return self.upscale(x, scale, size, exact)


class Convolve(nn.Module):
    """A small random network that looks 4 pixels far."""

    def __init__(self, scale: int, channels: int = 1) -> None:
        super().__init__()
        layers = [nn.Conv2d(channels if i == 0 else 8, 8, 3, padding=1) for i in range(3)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        self.size_multiple = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Explode(nn.Module):
    """A network that runs out of memory on planes of more than ``limit`` columns."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[3] > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return x


def oblique(spacing: tuple[float, float, float], flip: tuple[int, ...] = ()) -> np.ndarray:
    """An affine rotated about two axes, with some axes reversed and an origin off zero."""
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    signs = np.diag([-1.0 if axis in flip else 1.0 for axis in range(3)])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ signs @ np.diag(spacing)
    affine[:3, 3] = [-31.5, 12.25, 7.0]
    return affine


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """World coordinates of every voxel, ``(3, *shape)``."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Smooth bright blobs on black, float64 in [0, 1]."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij"))
    out = np.zeros(shape)
    for _ in range(6):
        centre = rng.uniform(-0.6, 0.6, size=(3, 1, 1, 1))
        out += rng.uniform(0.3, 1) * np.exp(-((grid - centre) ** 2).sum(axis=0) / rng.uniform(0.02, 0.2))
    return out / out.max()


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> Path:
    """Write stored values as they are, with slope and intercept beside them."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, intercept)
    image.to_filename(path)
    return path


def stored(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj.get_unscaled())


def run_inference(source: Path, output: Path, **overrides: object) -> None:
    """Run the inference config of RDST by MONAI's runner in this process; by default on a network without weights."""
    overrides.setdefault("weights", "none")
    overrides.setdefault("device", "$torch.device('cpu')")
    overrides.setdefault("config_file", str(INFERENCE))
    monai.bundle.run(dataset_dir=str(source), output_dir=str(output), logging_file=False, **overrides)


def run_any_scale(source: Path, output: Path, **overrides: object) -> None:
    """The same with the config of MIASSR, on a network that interpolates linearly."""
    network = {"_target_": "tests.helpers.InterpolateAnyScale"}
    config = INFERENCE.parents[2] / "miassr" / "configs" / "inference.json"
    run_inference(source, output, **{"config_file": str(config), "network_def": network, **overrides})


def identity(**overrides: object) -> dict[str, object]:
    return {"scale": 1, "network_def": {"_target_": "torch.nn.Identity"}, **overrides}


def run_module(*arguments: str, cwd: Path = ROOT, path: str = "") -> subprocess.CompletedProcess[str]:
    """``python -m`` in a process of its own, ``cwd`` and then ``path`` first among the places of imports."""
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def copy_repository(target: Path) -> Path:
    """Code, tests and settings of the repository, as they are now, in another folder."""
    target.mkdir()
    for folder in ("bundles", "common", "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file() and file.name != ".git":
            shutil.copy(file, target)
    return target


def data_dir() -> Path:
    """The folder of real images, or skip."""
    path = os.environ.get("SR_DATA_DIR")
    if not path or not Path(path).is_dir():
        pytest.skip("real images are not here: set SR_DATA_DIR to their folder")
    return Path(path)


class Interrupt(nn.Module):
    """The identity; at the second image somebody presses Ctrl-C, unless the file ``done`` says that it happened."""

    def __init__(self, done: str) -> None:
        super().__init__()
        self.done, self.calls = Path(done), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1  # two an image: one measures the need of memory
        if self.calls == 4 and not self.done.exists():
            self.done.touch()
            signal.raise_signal(signal.SIGINT)
        return x


class Misfit:
    """An inferer that is none."""
