"""The dense model: loading it, its kind, its inputs, what can be compressed in it, how its calls are recorded."""
