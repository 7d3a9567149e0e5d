"""What the API publishes: operations, schemas, and the documents made from them."""
