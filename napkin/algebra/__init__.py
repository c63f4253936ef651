"""Streams, merges and masks derived by algebra; see docs/algebra.md for the mathematics."""
