"""The orchestrated replay behind `make demo`."""
