"""Keys of the API: which there are, what each may do, and how often. Knows no HTTP, and no key but by its hash."""
