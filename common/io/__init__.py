"""Reading and writing: one read / write pair a format, and the record that every image carries between them."""
