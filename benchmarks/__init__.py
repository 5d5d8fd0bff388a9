"""Compares speed and memory with other libraries. Numbers are ratios within one run; no test asserts them."""
