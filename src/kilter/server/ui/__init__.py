"""The pages: what a browser shows of a workspace.

Enters: a workspace and its journal. Leaves: routes of pages, their parts, and the same data as JSON. Guarantees: pages
only read, are readable without JavaScript, load nothing from elsewhere, and a look costs the store one read per second.
"""
