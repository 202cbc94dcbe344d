"""Arguments of the entry points, drawn as a server would pass them."""
