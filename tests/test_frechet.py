"""Fréchet distance against closed forms and SciPy, few images and dead units, pooled features, Inception's recipe."""

import sys

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.frechet import (
    PooledFeatures,
    feature_distance,
    frechet_distance,
    load_inception,
    rank_note,
)
from tests.helpers import blobs


def draw(count: int, features: int, seed: int = 0) -> torch.Tensor:
    """Correlated features, about a mean that is not 0."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator) / features**0.5
    return torch.randn(count, features, generator=generator) @ mixing + 0.5


class Tiny(nn.Module):
    """Two layers that can be asked for; dropout tells training from evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3, stride=2)

    def features(self, x: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
        first = F.dropout(self.first(x).relu(), 0.5, self.training)
        return {name: {"first": first, "second": self.second(first)}[name] for name in names}


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def images(count: int = 12, side: int = 32) -> torch.Tensor:
    noise = np.random.default_rng(0).uniform(0, 0.3, (count, 1, side, side))
    planes = [blobs((side, side, 1), seed=seed)[..., 0] for seed in range(count)]
    return torch.as_tensor(np.stack(planes)[:, None] * 0.7 + noise, dtype=torch.float32)


@pytest.mark.parametrize("features", [1, 8, 64, 512])
def test_a_set_has_no_distance_from_itself_whatever_its_rank(features):
    x = draw(40, features)
    assert 0 <= frechet_distance(x, x.clone()) < 1e-6


@pytest.mark.parametrize("features", [1, 8, 64])
def test_a_shift_of_the_mean_costs_its_square(features):
    x, shift = draw(40, features).double(), torch.linspace(-1, 2, features, dtype=torch.float64)
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()), rel=1e-5)


def test_one_feature_has_the_closed_form_of_two_gaussians():
    a, b = draw(30, 1).double(), 3 * draw(50, 1, seed=1).double()
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


def by_scipy(a: torch.Tensor, b: torch.Tensor) -> float:
    """By the root of the symmetric product, which MONAI does not take."""
    x, y = a.double().numpy(), b.double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = scipy.linalg.eigh(cov_x)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.sqrt(np.clip(scipy.linalg.eigvalsh(root @ cov_y @ root), 0, None)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def test_enough_images_agree_with_the_formula_by_sqrtm():
    a, b = draw(300, 12), draw(200, 12, seed=1)
    covariances = [np.cov(x.double().numpy(), rowvar=False) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    means = (a.double().mean(0) - b.double().mean(0)).square().sum()
    expected = float(means) + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8) == pytest.approx(by_scipy(a, b), rel=1e-8)


@pytest.mark.parametrize("features, factor", [(64, 1e-5), (64, 1), (64, 1e4), (256, 1), (512, 1)])
def test_covariances_of_too_low_a_rank_give_the_right_distance_at_every_magnitude(features, factor):
    a, b = draw(40, features) * factor, draw(35, features, seed=1) * factor
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-4)


def test_dead_units_cost_what_they_differ_by(capsys):
    a, b = draw(40, 64), draw(40, 64, seed=1)
    a[:, :20], b[:, :10], b[:, 20:30] = 0, 0, 2.0
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-4)
    for seed in range(20):  # in some of them MONAI alone fails
        still = draw(1, 64, seed).expand(5, 64)
        assert frechet_distance(still, still + 1) == pytest.approx(64, rel=1e-6)
        assert frechet_distance(still, b) == pytest.approx(by_scipy(still, b), rel=1e-6)
    assert capsys.readouterr().out == ""  # MONAI prints where its root fails


def test_the_note_on_the_rank_is_there_while_it_is_deficient():
    assert rank_note(65, 64) is None
    assert rank_note(64, 64).startswith("64 images are too few for 64 features: their covariance has a rank of 63")


def test_paired_features_differ_by_the_root_mean_square():
    a = torch.zeros(2, 4)
    b = torch.tensor([[1.0, 1, 1, 1], [3, 0, 0, 0]])
    assert feature_distance(a, b) == pytest.approx((1 + 1.5) / 2)  # norms 2 and 3, over the root of 4 features
    assert feature_distance(b, b) == 0


def test_features_are_means_over_the_plane_of_the_layer_in_evaluation():
    module, x = tiny().train(), images()
    network = PooledFeatures(module, "second", "tiny, second")
    expected = F.conv2d(F.conv2d(x, module.first.weight, module.first.bias).relu(), module.second.weight, stride=2)
    expected = expected.mean(dim=(2, 3)) + module.second.bias
    torch.testing.assert_close(network(x), expected.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(network(x), expected.detach())
    assert network.name == "tiny, second" and not module.training and not network(x).requires_grad
    assert PooledFeatures(tiny().half(), "first", "half")(x).dtype == torch.float32


def test_blurred_and_shifted_images_are_further_away_than_a_copy():
    network, sharp = PooledFeatures(tiny(), "first", "tiny"), images()
    blurred = F.avg_pool2d(F.pad(sharp, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    slightly = sharp.lerp(blurred, 0.3)
    found = [network(x) for x in (sharp, slightly, blurred, (sharp + 0.2).clamp(0, 1))]
    for measure in (frechet_distance, feature_distance):
        copy, little, much, shifted = (measure(found[0], x) for x in found)
        assert copy < 1e-7 < little < much and shifted > 1e-3


def test_mistakes_are_named():
    x = draw(5, 3)
    for a, b, message in (
        (x, x[:1], r"features: must be of at least 2 images in each set, got \(5, 3\) and \(1, 3\); add images"),
        (x, draw(5, 4), r"features: must be \(N, D\) and \(M, D\), got \(5, 3\) and \(5, 4\); take both sets through"),
        (x, x[0], r"features: must be \(N, D\) and \(M, D\), got \(5, 3\) and \(3,\)"),
        (x, x / x.new_tensor([[1], [0], [1], [0], [1]]), "features: must be finite, got 2 images without; look at"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet_distance(a, b)
    with pytest.raises(ValueError, match="features: must be of paired images, got 5 and 4; pass each image in both"):
        feature_distance(x, x[:4])
    with pytest.raises(ValueError, match="features: must be of at least 1 images in each set"):
        feature_distance(x[:0], x[:0])
    with pytest.raises(ValueError, match=r"name: must not say Inception, got my inception; name the network and its"):
        PooledFeatures(tiny(), "first", "my inception")


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    class Missing:
        def __getattr__(self, name: str):
            raise ImportError("no module named scipy")

    monkeypatch.setattr("monai.metrics.fid.scipy", Missing())
    with pytest.raises(ValueError, match=r'scipy: must be installed for .*; run pip install -e "\.\[fid\]"'):
        frechet_distance(draw(5, 3), draw(5, 3, seed=1))
    torch.save({}, tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(
        ValueError,
        match=r'torchvision: must fit torch .*; run pip install -e "\.\[fid\]"',
    ):
        load_inception(tmp_path / "a.pth")


@pytest.mark.parametrize("path", [None, "nowhere.pth"])
def test_inception_is_never_downloaded(path):
    message = rf"inception_path: must be a file .*, got {path}; nothing is downloaded: fetch https://\S+-0cc3c7bd\.pth"
    with pytest.raises(ValueError, match=message + r" and pass it by --inception_path FILE"):
        load_inception(path)


def test_inception_sees_what_torchvisions_recipe_shows_it(tmp_path):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    reference = models.inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    for layer in (m for m in reference.modules() if isinstance(m, nn.Conv2d)):
        nn.init.kaiming_normal_(layer.weight)  # PyTorch's own weights fade to nothing in so many layers
    torch.save(reference.state_dict(), tmp_path / "inception.pth")
    network = load_inception(tmp_path / "inception.pth")
    grey = images(2, 64)
    found = network(grey)
    assert found.shape == (2, 2048) and network.name == "Inception-V3 (torchvision)" and not found.requires_grad
    pooled = []
    reference.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    large = F.interpolate(grey, (299, 299), mode="bilinear", antialias=True, align_corners=False).repeat(1, 3, 1, 1)
    with torch.no_grad():
        reference((large - mean) / std)
    torch.testing.assert_close(found, pooled[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network(grey.expand(-1, 3, -1, -1)), found)
    assert (found[0] - found[1]).std() > 0.01  # the weights tell the images apart
    with pytest.raises(ValueError, match=r"images: must be \(N, 1 or 3, H, W\), got \(2, 2, 8, 8\); pass each channel"):
        network(torch.rand(2, 2, 8, 8))


def test_a_file_of_another_network_is_refused(tmp_path):
    pytest.importorskip("torchvision.models")
    path = tmp_path / "other.pth"
    for content in (tiny().state_dict(), [1, 2], None):
        path.write_bytes(b"no weights") if content is None else torch.save(content, path)
        with pytest.raises(
            ValueError, match=r"other\.pth: must be the whole state dict of torchvision's Inception-V3; f"
        ):
            load_inception(path)
