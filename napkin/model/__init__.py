"""What a derivation costs: symbolic transfers, memory and operations (paper, section 5)."""
