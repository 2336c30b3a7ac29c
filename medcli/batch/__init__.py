"""Many images: what is to be done (plan), what is done already (manifest), doing it (run), telling it (report)."""
