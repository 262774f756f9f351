"""The published formats, one file each: random access to the rows, errors that name the file and the line."""
