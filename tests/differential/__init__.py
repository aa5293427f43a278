"""Random calls of every hot path beside the reference: python -m tests.differential."""
