"""Making flists and taking them apart: pack, unpack, merge, and copying chunks between stores.

Off the way of a read: nothing here is imported by a mount.
"""
