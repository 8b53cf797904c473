"""autoem beside its peers: one run, ratios."""
