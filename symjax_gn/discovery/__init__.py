"""From data, and a network that ranks terms, to a law; and whether the law is right."""
