"""From a derivation and its tiles to the loop program."""
