"""Whole networks that are not an encoder and a head."""
