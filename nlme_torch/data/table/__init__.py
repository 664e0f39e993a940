"""The user's table: files, cells, which column plays which part, rows left out, problems found."""
