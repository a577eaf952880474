"""`make chaos`: the daemon is killed at every crash window and at random moments, and the chain is the judge."""
