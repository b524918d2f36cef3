"""Image files, pairs, and the order in which training sees them."""
