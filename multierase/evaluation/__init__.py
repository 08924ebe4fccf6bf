"""Judging erasures: suites of prompts, judges, and what they see before and after."""
