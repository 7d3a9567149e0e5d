"""Small mechanisms over Twisted's reactor that every part needs: waiters, deadlines, children.

Nothing here knows the product.
"""
