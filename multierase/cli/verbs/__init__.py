"""The verbs: one function from arguments to a report, and one that prints the report."""
