"""What a transfer of folders, resume and pipes promise, held against the real programs across two NATs."""
