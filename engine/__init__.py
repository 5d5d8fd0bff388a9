"""Everything around the models: config, training, evaluation, cross-validation, prediction, reports."""
