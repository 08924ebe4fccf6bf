"""Training an increment: what is asked, what is learned from, the one loop."""
