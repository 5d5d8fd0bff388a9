"""One file per data set: which files it has, which classes, which splits."""
