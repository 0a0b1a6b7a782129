"""Transport and authentication plugins: how links are made."""
