"""Cross-validation: roles of images, folds, stages, and the averages of the folds' weights."""
