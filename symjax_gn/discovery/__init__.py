"""From a trained network to a law, and whether the law is right."""
