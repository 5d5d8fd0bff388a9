"""python -m tools.study: trains every config of a folder and compares them in one table."""
