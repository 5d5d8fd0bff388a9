"""One table per layout: their names beside ours, with the reshapes. They are data; translate.py applies them."""
