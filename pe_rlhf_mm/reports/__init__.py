"""A run, or the log of an evaluation, as one static page that needs no network."""
