"""Images that exist already, wherever they lie: folders, archives, tables, records. A file for each kind."""
