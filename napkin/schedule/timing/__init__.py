"""How long a program takes, and what it holds and moves meanwhile."""
