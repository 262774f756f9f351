"""Tasks of the company Acme."""
