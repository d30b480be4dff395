"""Changes after truncation."""
