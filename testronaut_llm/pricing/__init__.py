"""The parts of a price: tables, rows, the names that models go by, and newer prices."""
