"""A run folder as one static page that needs no network."""
