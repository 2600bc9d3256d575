"""The parts of the ledger: its entries, the file they live in, and the report read from it."""
