"""Used by every room: command line, errors, console, files, seeds, downloads, devices, tables."""
