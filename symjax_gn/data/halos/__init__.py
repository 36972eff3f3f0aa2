"""Dark matter halos: simulated catalogues, readers of others', and their graphs."""
