"""Bases that a benchmark is told of, their judges, and the tables of what was measured on them."""
