"""Which channels go: criteria score, an allocation orders, a budget stops; the result is a Plan."""
