"""What the data are: graphs, their targets, units and files. Knows no physics."""
