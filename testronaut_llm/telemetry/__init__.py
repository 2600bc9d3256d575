"""What happened, told: events, OpenTelemetry, and texts without secrets."""
