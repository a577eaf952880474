"""What is served over HTTP: the keeper's API and pages, and the bundled backend."""
