"""The cost of calls: prices, tokens, budgets, the ledger, and the report of spend."""
