"""What the commands of bench/ share."""
