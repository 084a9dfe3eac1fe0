"""One-file bundles: a bundle and all code it needs in a zip archive that runs alone, and the check of one."""
