"""Error curves and prices -> candidates: which rank each layer gets under a budget."""
