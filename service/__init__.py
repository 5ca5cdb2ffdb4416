"""Online: HTTP, Redis, asyncio. Never trains."""
