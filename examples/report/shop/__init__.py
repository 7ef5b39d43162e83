"""The example's own package."""
