"""The published API: operations, schemas, and the documents made from them."""
