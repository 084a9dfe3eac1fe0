import hashlib
import json
import os

import pytest
import torch

from common.io.archive import sha256
from common.weights import load_weights, load_weights_or_exit, start_from, store_weights
from tests.helpers import Convolve


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"weights": {}}))
    torch.manual_seed(0)
    torch.save(Convolve(2).state_dict(), tmp_path / "trained.pt")
    store_weights(str(tmp_path / "trained.pt"), str(folder), licence="MIT", scale=2)
    return folder


def listed(bundle) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text())["weights"]


def test_stored_weights_are_halved_listed_and_load(bundle, tmp_path):
    file = bundle / "models" / "model.pt"
    assert file.stat().st_size < 0.8 * (tmp_path / "trained.pt").stat().st_size
    assert listed(bundle) == {"model.pt": {"sha256": sha256(file), "licence": "MIT", "scale": 2}}
    network, trained = Convolve(2), torch.load(tmp_path / "trained.pt", weights_only=True)
    assert load_weights(network, file, bundle, listed(bundle)) == hashlib.sha256(file.read_bytes()).hexdigest()
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, trained[name], atol=1e-3, rtol=1e-3)


def test_a_changed_shipped_file_is_refused_before_it_is_read(bundle):
    file = bundle / "models" / "model.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model\.pt: SHA-256 must be [0-9a-f]{64} .* got [0-9a-f]{64}; fetch"):
        load_weights(Convolve(2), file, bundle, listed(bundle))


def test_shipped_weights_of_another_scale_are_refused_by_scale(bundle, tmp_path):
    torch.save(Convolve(2).state_dict(), tmp_path / "trained.pt")
    store_weights(str(tmp_path / "trained.pt"), str(bundle), scale=2)
    network = Convolve(4)
    network.scale = 4
    with pytest.raises(ValueError, match=r"model\.pt: these weights are for scale 2, the network is for scale 4; pass"):
        load_weights(network, bundle / "models" / "model.pt", bundle, listed(bundle))


def test_an_unlisted_file_among_the_shipped_ones_is_refused(bundle, tmp_path):
    os.rename(tmp_path / "trained.pt", bundle / "models" / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: SHA-256 must be None"):
        load_weights(Convolve(2), bundle / "models" / "other.pt", bundle, listed(bundle))


def test_a_users_own_file_is_hashed_plain_or_under_model(bundle, tmp_path):
    own = tmp_path / "own.pt"
    torch.save({"model": Convolve(2).state_dict(), "optimizer": {}}, own)
    assert load_weights(Convolve(2), own, bundle, {}) == sha256(own)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            Convolve(4).state_dict(),
            r"the weights do not fit the network \(\S+: must be \[.*\], got \[.*\]\); check the config",
        ),
        (
            {**Convolve(2).state_dict(), "extra": torch.zeros(1)},
            r"do not fit the network \(extra: must be none, got \[1\]\)",
        ),
        ({"model": [1, 2]}, "must be a PyTorch state dict of nothing but tensors"),
        ([torch.zeros(1)], "must be a PyTorch state dict of nothing but tensors"),
        (os.system, "must be a PyTorch state dict of nothing but tensors"),  # unpickling code is refused
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(bundle, tmp_path, content, message):
    torch.save(content, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=rf"own\.pt: .*{message}"):
        load_weights(Convolve(2), tmp_path / "own.pt", bundle, {})


def test_files_that_are_no_weights_are_refused(bundle, tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "trained.pt").read_bytes()[:500])
    for name in ("text.pt", "cut.pt"):
        with pytest.raises(ValueError, match=rf"{name}: must be a PyTorch state dict"):
            load_weights(Convolve(2), tmp_path / name, bundle, {})
    with pytest.raises(ValueError, match=r"none\.pt: there are no such weights; pass --ckpt_path"):
        load_weights(Convolve(2), tmp_path / "none.pt", bundle, {})


def test_on_the_command_line_a_mistake_is_one_sentence(bundle, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: .*none\.pt: there are no such weights"):
        load_weights_or_exit(Convolve(2), tmp_path / "none.pt", bundle, {})


def test_training_starts_from_nothing_or_from_a_file(bundle, tmp_path):
    network = Convolve(2)
    assert start_from(network, None, bundle, {}) is None
    assert start_from(network, tmp_path / "trained.pt", bundle, {}) == sha256(tmp_path / "trained.pt")


def test_weights_that_overflow_in_half_precision_are_not_stored(bundle, tmp_path):
    torch.save({"w": torch.tensor([1e6])}, tmp_path / "big.pt")
    with pytest.raises(ValueError, match="must be finite in half precision"):
        store_weights(str(tmp_path / "big.pt"), str(bundle))


def trunk(scale: int, width: int = 4) -> torch.nn.Module:
    network = torch.nn.Module()
    network.head, network.upsampler = torch.nn.Conv2d(1, width, 3), torch.nn.Conv2d(width, scale**2, 3)
    network.scale = scale
    return network


def test_weights_for_another_scale_lend_all_but_the_upsampler(bundle, tmp_path):
    double, fourfold = trunk(2), trunk(4)
    torch.save(double.state_dict(), tmp_path / "x2.pt")
    before = fourfold.upsampler.weight.clone()
    assert start_from(fourfold, tmp_path / "x2.pt", bundle, {}, transfer="true") == sha256(tmp_path / "x2.pt")
    assert torch.equal(fourfold.head.weight, double.head.weight) and torch.equal(fourfold.upsampler.weight, before)
    with pytest.raises(ValueError, match=r"x2\.pt: the weights do not fit"):
        start_from(fourfold, tmp_path / "x2.pt", bundle, {})
    with pytest.raises(
        ValueError, match=r"x2\.pt: but for its upsampler, the network must be the same, got head\.bias"
    ):
        start_from(trunk(4, width=5), tmp_path / "x2.pt", bundle, {}, transfer=True)
    with pytest.raises(ValueError, match=r"none\.pt: there are no such weights"):
        start_from(fourfold, tmp_path / "none.pt", bundle, {}, transfer=True)
    with pytest.raises(ValueError, match="transfer: must be true or false"):
        start_from(fourfold, tmp_path / "x2.pt", bundle, {}, transfer="maybe")
