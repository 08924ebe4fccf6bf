"""What people write: concepts, the sentences about them, and lists of prompts."""
