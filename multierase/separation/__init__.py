"""What belongs to a concept in a model's language, and what must not change."""
