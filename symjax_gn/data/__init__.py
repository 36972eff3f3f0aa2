"""What the data are: graphs, units and files. Knows no physics."""
