"""The parts of kernels that share their work out between warps, or keep operands in shared memory."""
