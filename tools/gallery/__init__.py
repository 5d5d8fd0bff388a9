"""python -m tools.gallery: several networks on the same images in one HTML file."""
