"""Writes report.md, report.html and their plots from the files of a run folder."""
