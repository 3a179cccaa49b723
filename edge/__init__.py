"""The edge node: readings in, a calibrated 48-hour forecast per meter out, every interval."""
