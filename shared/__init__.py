"""What both sides must agree on: a thing lives here only if edge and central both break when it changes."""

__version__ = "0.1.0"
