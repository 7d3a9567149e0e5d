"""The storage reader: uploads closed slices from the volumes of this node to staging storage."""
