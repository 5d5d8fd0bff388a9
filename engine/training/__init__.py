"""Trains one network: the loop, optimiser, schedules, pretrained weights, teacher, log."""
