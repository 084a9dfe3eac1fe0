"""Distances between sets of images in the features of a frozen network: Fréchet's, and the mean one of paired images.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017,
equation 6. The Fréchet distance is MONAI's. A distance means nothing without the name of its network.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.metrics.fid import get_fid_score

from .frozen import fill, freeze, read_named

INCEPTION_FILE = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
INSTALL = 'run pip install -e ".[fid]"'


class FeatureNetwork(Protocol):
    """A frozen network that describes each image by a vector.

    Attributes:
        name: what stands beside every distance in its features, such as ``"U-Net E5"``.
    """

    name: str

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] to features ``(N, D)`` in float32."""


class PooledFeatures:
    """Mean over the plane of what one layer of a network gives, in float32, also under autocast.

    The network is frozen from now on, and stays on its device.

    Args:
        module: has ``features(x, names)``, which returns a mapping from layer name to ``(N, C, h, w)``.
        layer: the name of a layer.
        name: of network and layer, for tables; without "Inception", which stands for :func:`load_inception`.

    Raises:
        ValueError: the name has the word Inception.
    """

    def __init__(self, module: nn.Module, layer: str, name: str) -> None:
        if "inception" in name.lower():
            raise ValueError(f"name: must not say Inception, got {name}; name the network and its layer")
        self.name, self.layer = name, layer
        self.module: Any = freeze(module).float()

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``(N, C, H, W)``, with the channels that the network takes, to ``(N, D)``, D channels of the layer."""
        with torch.autocast(images.device.type, enabled=False):
            found: torch.Tensor = self.module.features(images.float(), [self.layer])[self.layer]
        return found.mean(dim=(2, 3))


class InceptionFeatures:
    """The 2048 features before the classifier of torchvision's Inception-V3; see :func:`load_inception`."""

    name = "Inception-V3 (torchvision)"

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Grey or RGB images ``(N, 1 or 3, H, W)`` in [0, 1], of any size, to ``(N, 2048)``.

        Raises:
            ValueError: other shapes.
        """
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images: must be (N, 1 or 3, H, W), got {tuple(images.shape)}; pass each channel as grey")
        with torch.autocast(images.device.type, enabled=False):
            images = F.interpolate(images.float(), (299, 299), mode="bilinear", antialias=True)
            # the weights are for [-1, 1]: torchvision normalises as for ImageNet, and the network then undoes it
            return torch.as_tensor(self.network(images.expand(-1, 3, -1, -1) * 2 - 1))


def load_inception(path: str | os.PathLike[str] | None, device: str | torch.device = "cpu") -> InceptionFeatures:
    """Inception-V3 with the weights of torchvision, from a file; nothing is ever downloaded.

    The original FID has other weights, those of a TensorFlow release, and other interpolation: distances in these
    features are comparable among themselves, not with figures of other papers. Tables must show the name.

    Args:
        path: ``inception_v3_google-0cc3c7bd.pth``, or another state dict of the same keys.
        device: for the network; images must be there too.

    Raises:
        ValueError: the file is missing, damaged or of another network, or torchvision is not installed.
    """
    remedy = f"fetch {INCEPTION_FILE} and pass it by --inception_path FILE"
    missing = (
        f"inception_path: must be a file with the weights of Inception-V3, got {path}; nothing is downloaded: {remedy}"
    )
    state = read_named(path, missing)
    try:
        from torchvision.models import inception_v3
    except (ImportError, RuntimeError) as error:  # the latter where it was built for another PyTorch
        text = f"torchvision: must fit torch {torch.__version__}, got {error}; {INSTALL} from the index of torch"
        raise ValueError(text) from error
    network = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False)
    fill(network, state, f"{path}: must hold the weights of torchvision's Inception-V3", remedy)
    network.fc = nn.Identity()
    return InceptionFeatures(network.to(device))


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance between the normal distributions of two sets of features.

    Computed in float64 by MONAI, but for features that are constant in one of the sets (dead units): they make its
    matrix root fail, and have a closed form. The others are brought to a mean variance of 1, as MONAI's tolerances are
    absolute. Rounding was below 1e-5 of the sets' total variance up to D = 2048; below zero it is cut off. The root
    takes 0.5 seconds for D = 512 on a CPU core, 20 for 2048.

    Args:
        a, b: features ``(N, D)`` and ``(M, D)``; see :func:`rank_note` on how many are needed.

    Raises:
        ValueError: fewer than 2 images, features of other shapes or not finite, or SciPy is not installed.
    """
    _check(a, b, least=2)
    a, b = a.cpu().double(), b.cpu().double()
    constant = (a == a[:1]).all(dim=0) | (b == b[:1]).all(dim=0)
    closed = (a.mean(dim=0) - b.mean(dim=0)).square() + a.var(dim=0) + b.var(dim=0)
    distance = float(closed[constant].sum())
    if not constant.all():
        distance += _by_root(a[:, ~constant], b[:, ~constant])
    return max(distance, 0.0)


def _by_root(a: torch.Tensor, b: torch.Tensor) -> float:
    """MONAI's distance, of features of which none is constant."""
    unit = torch.cat([a, b]).var(dim=0).mean().sqrt()
    if a.shape[1] == 1:  # MONAI takes the covariance of a single feature for a number, and fails
        a, b = (F.pad(x, (0, 1)) for x in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's, of singular matrices: rank_note says what they mean
        try:
            return float(get_fid_score(a / unit, b / unit) * unit**2)
        except ImportError as error:
            raise ValueError(f"scipy: must be installed for the Fréchet distance; {INSTALL}") from error


def rank_note(n: int, d: int) -> str | None:
    """What to say beside a distance of ``n`` images (of the smaller set) in ``d`` features; None where n is enough."""
    text = (
        f"{n} images are too few for {d} features: their covariance has a rank of {n - 1} at most, so that the "
        "Fréchet distance is biased, and comparable only with those of as many images"
    )
    return text if n <= d else None


def feature_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over images of the root mean square difference between the features of an image and of its pair.

    That is the L2 norm divided by √D, so that networks of many features do not differ by their number alone.

    Args:
        a, b: features ``(N, D)``; row n of both is of one image.

    Raises:
        ValueError: the shapes differ, there is no image, or a feature is not finite.
    """
    _check(a, b, least=1)
    if len(a) != len(b):
        raise ValueError(f"features: must be of paired images, got {len(a)} and {len(b)}; pass each image in both sets")
    return float((a.double() - b.double()).norm(dim=1).mean()) / a.shape[1] ** 0.5


def _check(a: torch.Tensor, b: torch.Tensor, least: int) -> None:
    shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features: must be (N, D) and (M, D), got {shapes}; take both sets through one network")
    if min(len(a), len(b)) < least or a.shape[1] < 1:
        raise ValueError(f"features: must be of at least {least} images in each set, got {shapes}; add images")
    for x in (a, b):
        if not torch.isfinite(x).all():
            count = int((~torch.isfinite(x)).any(dim=1).sum())
            raise ValueError(f"features: must be finite, got {count} images without; look at their intensities")
