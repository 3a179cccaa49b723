"""`edge doctor`: what is wrong around this edge, each finding with its mend."""
