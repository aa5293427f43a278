"""What a checkout shows and no wheel holds; `make demo` runs the one there is."""
