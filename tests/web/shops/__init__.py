"""The same small shop in every framework: each module makes one, for a web server process, from the environment.

Its store's URL is in `SHOP_STORE`, and how long it waits for it in `SHOP_PATIENCE`. The cookie is called `__Host-session`
everywhere, so that one browser can shop in all of them.
"""
