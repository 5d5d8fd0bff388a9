"""Scores a network on a data set: views, metrics per image, calibration, bootstrap intervals."""
