"""Which form of a kernel is printed: the plain loop, warps with roles, or a loop over shared tiles."""
