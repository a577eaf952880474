"""What a contributor runs by hand: ape scripts in this folder, and the devnet and the demo in `world/`."""
