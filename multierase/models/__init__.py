"""The families of models. No other package of multierase names an architecture."""
