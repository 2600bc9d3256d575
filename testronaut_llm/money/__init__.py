"""What calls cost: prices, tokens, budgets, the ledger, and the report of what was spent."""
