"""A derivation laid on a machine: the plan, the loop program, and the NumPy executor that runs it."""
