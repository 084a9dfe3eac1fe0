import pytest
import torch
import torch.nn as nn

from common.blocks.autoencoder import Autoencoder, PerceptualEncoder
from tests.helpers import blobs


def test_the_encoder_has_the_layers_of_the_paper():
    convolutions = [layer for layer in PerceptualEncoder().layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 32, 64, 64, 128, 128]
    assert {(layer.kernel_size, layer.stride) for layer in convolutions} == {((3, 3), (1, 1))}
    assert isinstance(PerceptualEncoder().layers[-1], nn.ReLU)


def test_the_decoder_mirrors_the_encoder_and_may_give_any_value():
    decoder = Autoencoder(2).decoder
    assert [layer.out_channels for layer in decoder if isinstance(layer, nn.Conv2d)] == [128, 64, 64, 32, 32, 2]
    assert isinstance(decoder[-1], nn.Conv2d)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (13, 22)])
def test_the_autoencoder_keeps_any_size_and_scripts(size):
    autoencoder, planes = Autoencoder(2).eval(), torch.rand(1, 2, *size)
    with torch.no_grad():
        out, code = autoencoder(planes), autoencoder.encoder(planes)
        assert out.shape == planes.shape
        assert code.shape == (1, 128, -(-size[0] // 4), -(-size[1] // 4))
        torch.testing.assert_close(torch.jit.script(autoencoder)(planes), out)
        torch.testing.assert_close(torch.jit.script(autoencoder.encoder)(planes), code)


def test_the_last_column_of_an_odd_size_counts():
    torch.manual_seed(0)
    encoder, plane = PerceptualEncoder(), torch.rand(1, 1, 17, 17)
    other = plane.clone()
    other[..., -1] += 1
    assert not torch.equal(encoder(other)[..., -1], encoder(plane)[..., -1])


def test_the_autoencoder_learns():
    torch.manual_seed(0)
    autoencoder, plane = Autoencoder(), torch.from_numpy(blobs((32, 32, 1))).float().permute(2, 0, 1)[None]
    optimiser = torch.optim.Adam(autoencoder.parameters(), lr=5e-4)
    for _ in range(30):
        error = nn.functional.mse_loss(autoencoder(plane), plane)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert error < 0.1 * plane.var()  # a constant image leaves all of it
