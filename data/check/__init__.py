"""Checks a data set before training: broken files, wrong values, missing pairs."""
