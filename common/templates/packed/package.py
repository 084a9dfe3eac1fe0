"""Code of a packed bundle; it runs only where every file is as it was packed."""

from pathlib import Path

from .common.seal import check_seal

check_seal(Path(__file__).parent)
