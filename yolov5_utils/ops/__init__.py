"""One file per hot path: try C, otherwise the reference."""
