"""Taking a cluster over from the original service, and giving it back."""
