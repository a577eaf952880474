"""What the backend and the signalling server say, taken in as hints: validated, normalised, never believed."""
