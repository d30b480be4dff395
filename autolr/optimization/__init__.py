"""The search: parameters to candidates, proposals, trials and who runs them."""
