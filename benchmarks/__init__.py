"""Timed comparisons with other libraries. Numbers are ratios within one run; nothing here is asserted in a test."""
