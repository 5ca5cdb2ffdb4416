"""Keeps a few histories of live requests, to try bundles on. Knows engines and files; no user, no request, no HTTP."""
