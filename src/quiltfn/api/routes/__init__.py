"""The routes, one file for each group: its handlers, and what each takes and answers."""
