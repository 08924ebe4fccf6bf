"""Out of multierase and into it: other tools' files."""
