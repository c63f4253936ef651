"""What a Program is printed as: pseudocode with its costs, and kernels."""
