"""One command per file or folder: python -m tools.NAME --help."""
