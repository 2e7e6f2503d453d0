"""What the nodes of a fleet know of each other, in the database that they share."""
