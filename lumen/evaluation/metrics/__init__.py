"""What painted images are judged by; one file each."""
