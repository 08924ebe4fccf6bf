"""Reports of sweeps: rows of numbers, a page to look at, tables."""
