"""Find which directions of the text belong to a concept, and which must not change."""
