"""Reading and writing other programs' files: what all formats share."""
