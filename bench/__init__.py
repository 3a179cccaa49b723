"""The numbers of `make bench`: each beside its limit and, where there is one, beside its peer in the same run."""
