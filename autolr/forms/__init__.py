"""What a unit becomes: its factors, their gauge, and the swap of modules in place and back."""
