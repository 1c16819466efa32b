"""Where chunks come from: store clients, router files and the router that joins them."""
