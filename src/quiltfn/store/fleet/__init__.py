"""The data of a fleet's nodes about each other, in the database that they share."""
