"""What a network computes, what it costs and what it sees: operations, receptive fields, attention."""
