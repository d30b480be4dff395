"""What runs a compressed model, and travels with every checkpoint: it depends on torch alone."""
