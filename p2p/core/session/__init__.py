"""Agreement on keys through the rendezvous server, proved by a one-time code."""
