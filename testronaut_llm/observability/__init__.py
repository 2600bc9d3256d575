"""Where telemetry goes: JSON lines in a file, and OpenTelemetry."""
