"""One kernel: a derivation laid on a machine, and the tilings that it is chosen from."""
