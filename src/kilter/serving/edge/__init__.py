"""Devices: signed releases on their way to them, and their predictions on the way back.

Releases enter as their maker signed them, and leave unchanged; uploads enter signed by an enrolled device, and become records of
the prediction log. Guarantees: a device gets the release of the champion or none; a record is in the log once, however often it
is sent; neither the store nor its server can sign a release.
"""
