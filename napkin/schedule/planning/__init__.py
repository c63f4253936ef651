"""A diagram's plan: one kernel or several in turn, why it is what it is, and what it costs."""
