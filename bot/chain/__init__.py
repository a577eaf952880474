"""The chain: JSON-RPC, the contract's codec and reads, the follower of its logs."""
