"""From files on disk to lists of cases and cached planes."""
