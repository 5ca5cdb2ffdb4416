"""One function a command; service/cli.py registers them."""
