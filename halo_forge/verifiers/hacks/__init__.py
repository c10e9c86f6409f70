"""Signs of reward hacking."""
