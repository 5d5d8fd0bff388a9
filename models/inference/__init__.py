"""What makes inference fast, applied to a copy of a network: the networks themselves know nothing of it."""
