"""Makes ``twistd stream`` known."""

from twisted.application.service import ServiceMaker

stream = ServiceMaker(
    "Stream",
    "stream.plugin",
    "Event ingestion: HTTP records to durable slices to tables.",
    "stream",
)
