"""The Panel dashboard: `app.py` is the page, the others are its parts."""
