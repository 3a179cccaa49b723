"""Measures of forecasts (skeleton, being filled in)."""
