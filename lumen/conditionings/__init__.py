"""What can steer the ControlNet; one file each."""
