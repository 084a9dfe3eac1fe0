"""Shared package of the super-resolution bundles: blocks, transforms, geometry, reading and writing, inferers."""
