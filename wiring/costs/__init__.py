"""What one backward pass measures: local costs, the identities that they obey, and their enumeration."""
