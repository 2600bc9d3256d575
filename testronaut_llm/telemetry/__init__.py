"""Events of calls, OpenTelemetry, and redaction of secrets."""
