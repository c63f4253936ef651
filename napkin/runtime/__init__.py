"""What runs kernels: torch callables, verification, inspection. Only here are torch and triton."""
