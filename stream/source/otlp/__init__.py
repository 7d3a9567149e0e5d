"""OpenTelemetry over HTTP (OTLP), which receives logs, metrics and traces as records."""
