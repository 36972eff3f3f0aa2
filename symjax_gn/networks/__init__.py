"""Graph networks and how they are trained."""
