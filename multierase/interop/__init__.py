"""Export to, and import from, files of other tools."""
