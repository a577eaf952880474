"""`/debug`: mock lessons on a local chain, and everything that comes of them. With DEBUG_PAGE=1 only."""
