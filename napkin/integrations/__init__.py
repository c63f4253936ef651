"""Diagrams inside other libraries. Nothing in napkin imports these modules; each needs its library."""
