"""OpenTelemetry over HTTP (OTLP): logs, metrics and traces as records."""
