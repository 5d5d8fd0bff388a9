"""Segments a user's own images: inputs, the network in bounded memory, output files."""
