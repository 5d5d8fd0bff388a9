"""The loop around the models: config, training, evaluation, cross-validation, averaging, reports."""
