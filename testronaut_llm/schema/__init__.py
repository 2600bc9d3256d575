"""The parts of structured output: a schema to what each wire takes, and an answer back to what was asked."""
