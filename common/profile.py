"""What a bundle's network costs: parameters, operations, time and memory for one plane."""

from __future__ import annotations

import time
from statistics import median

import torch
from monai.bundle import ConfigParser

from .info import find_bundles
from .macs import count_macs
from .memory import MB, bytes_per_pixel


def profile(bundle: str, height: int = 40, width: int = 32, repeats: int = 5) -> str:
    """Parameters, MACs by both rules, planes a second and memory of a bundle's network, with random weights.

    Args:
        bundle: its name.
        height, width: of the LR plane; 40 × 32 is that of the dissertation's table 5.5.
        repeats: forward passes, of which the median time counts.

    Raises:
        ValueError: there is no such bundle.
    """
    bundles = find_bundles()
    if bundle not in bundles:
        raise ValueError(f"bundle: must be one of {', '.join(bundles)}, got {bundle}")
    parser = ConfigParser()
    parser.read_config(str(bundles[bundle] / "configs" / "inference.json"))
    network, channels = parser.get_parsed_content("network_def").eval(), parser.get_parsed_content("in_channels")
    macs = count_macs(network, (1, channels, height, width))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, plane = network.to(device), torch.rand(1, channels, height, width, device=device)
    need = bytes_per_pixel(network, plane) * height * width / MB
    return "\n".join(
        [
            f"{bundle}, scale {network.scale}, plane of {height} x {width}, {channels} channels",
            f"parameters                     {sum(p.numel() for p in network.parameters() if p.requires_grad):,}",
            f"MACs by the paper's rule       {macs.paper / 1e9:.2f} G",
            f"MACs with attention products   {macs.with_attention / 1e9:.2f} G",
            f"planes a second on {device.type:<12}{1 / _seconds(network, plane, repeats):.2f}",
            f"memory of a plane              {need:.0f} MB beside the weights",
        ]
    )


def _seconds(network: torch.nn.Module, plane: torch.Tensor, repeats: int) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            started = time.perf_counter()
            network(plane)
            if plane.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return median(times[1:])  # the first one warms up
