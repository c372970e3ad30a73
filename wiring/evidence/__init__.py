"""What runs say: a number from a record, the claims about it, and their verdicts."""
