"""The conversion of a record to a table row: columns, templates, and the CSV bytes."""
