"""The API as it is published: operations, schemas, and the documents made from them."""
