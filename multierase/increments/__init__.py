"""Increments: the value, its file, a folder of them."""
