"""Losses that PyTorch and MONAI lack."""
