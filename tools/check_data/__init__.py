"""python -m tools.check_data: finds faults in the data of a config."""
