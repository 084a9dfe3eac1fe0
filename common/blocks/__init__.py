"""Building blocks of the networks: one concept a file, each scriptable."""
