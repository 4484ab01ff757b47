"""What people look at after a run: numbers with their errors, a contact sheet, one HTML page."""
