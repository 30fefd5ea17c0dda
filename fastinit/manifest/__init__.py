"""The account of what was drawn, and any part of it again."""
