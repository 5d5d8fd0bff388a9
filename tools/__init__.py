"""Secondary commands, one a file: python -m tools.<name> --help."""
