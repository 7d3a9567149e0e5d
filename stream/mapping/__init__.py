"""From a record to the row of a table: columns, templates, and the CSV bytes."""
