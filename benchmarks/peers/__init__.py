"""The same bundle behind other ways to serve it: a plain handler, Ray Serve, BentoML."""
