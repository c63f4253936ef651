"""Pictures: of a diagram, and of what its plan is expected to cost. SVG text that stands alone."""
