"""What network this machine is on, what works from it, and what would help: docs/doctor.md."""
