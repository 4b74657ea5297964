"""All that belongs to one process: its forks, event loops and exit, and how many processes there are beside it."""
