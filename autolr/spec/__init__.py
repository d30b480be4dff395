"""What is asked of a study: budgets and floors, the specification, search spaces, what objectives mean."""
